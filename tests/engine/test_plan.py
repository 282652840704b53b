"""Default plans of devices, and invalid plans."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from fastsam2.engine import plan as plan_module
from fastsam2.engine.plan import Plan
from fastsam2.errors import ConfigError
from fastsam2.predictors.building import _choose_plan

GPU = torch.device("cuda")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Set whether Triton kernels are reported to run on the GPU; no GPU is needed."""
    answer = [True]
    monkeypatch.setattr(plan_module, "uses_triton", lambda impl, tensor: answer[0])
    monkeypatch.setattr(torch, "empty", lambda *args, device: None)
    return answer


def test_auto_plan_with_triton(fits: list[bool]) -> None:
    assert Plan.auto(GPU) == Plan(torch.bfloat16, graphs=True, encoder_batch=4)
    assert Plan.exact(GPU) == Plan(graphs="steady", encoder_batch=4)
    assert Plan.exact(GPU, "reference") == Plan(impl="reference", encoder_batch=4)
    assert Plan.eager(GPU) == Plan(encoder_batch=4)
    Plan.auto(GPU).check(GPU)


def test_auto_plan_without_triton(fits: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    fits[0] = False
    with caplog.at_level(logging.INFO):
        assert Plan.auto(GPU) == Plan(torch.float16, encoder_batch=4)
    assert Plan.exact(GPU) == Plan(encoder_batch=4)
    (record,) = caplog.records
    assert "no Triton kernels for cuda" in record.message


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"dtype": torch.float64}, "not torch.float64"),
        ({"encoder_batch": -1}, "but is -1"),
        ({"compile": "step"}, "not 'step'"),
        ({"graphs": "later"}, "not 'later'"),
    ],
)
def test_invalid_values(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Plan(**kwargs)


@pytest.mark.parametrize(
    ("value", "plan"), [("", Plan()), ("eager", Plan()), ("auto", Plan(torch.bfloat16))]
)
def test_the_environment_replaces_no_plan(
    monkeypatch: pytest.MonkeyPatch, value: str, plan: Plan
) -> None:
    monkeypatch.setattr(plan_module, "_cpu_multiplies_bf16", lambda: True)
    monkeypatch.setenv("FASTSAM2_PLAN", value)
    assert choose() == plan
    assert choose(Plan(torch.float16)) == Plan(torch.float16)
    assert choose("eager") == Plan()


def test_unknown_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not 'fast'"):
        choose("fast")
    monkeypatch.setenv("FASTSAM2_PLAN", "slow")
    with pytest.raises(ConfigError, match=r"not 'slow'.* FASTSAM2_PLAN"):
        choose()


def choose(plan: Any = None) -> Plan:
    return _choose_plan(plan, torch.device("cpu"), dtype=None, impl=None, vos_optimized=False)
