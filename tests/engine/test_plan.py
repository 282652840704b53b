"""Default plans of devices, and invalid plans."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from fastsam2.engine import plan
from fastsam2.engine.plan import Plan
from fastsam2.errors import ConfigError

GPU = torch.device("cuda")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Set whether Triton kernels are reported to run on the GPU; no GPU is needed."""
    answer = [True]
    monkeypatch.setattr(plan, "uses_triton", lambda impl, tensor: answer[0])
    monkeypatch.setattr(torch, "empty", lambda *args, device: None)
    return answer


def test_auto_plan_with_triton(fits: list[bool]) -> None:
    assert Plan.auto(GPU) == Plan(torch.bfloat16, graphs=True, encoder_batch=4)
    assert Plan.exact(GPU) == Plan(encoder_batch=4)
    Plan.auto(GPU).check(GPU)


def test_auto_plan_without_triton(fits: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    fits[0] = False
    with caplog.at_level(logging.INFO):
        assert Plan.auto(GPU) == Plan(torch.float16, encoder_batch=4)
    (record,) = caplog.records
    assert "no Triton kernels for cuda" in record.message


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"dtype": torch.float64}, "not torch.float64"),
        ({"encoder_batch": -1}, "but is -1"),
    ],
)
def test_invalid_values(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Plan(**kwargs)
