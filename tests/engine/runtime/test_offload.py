"""Asynchronous copies to the CPU are complete after `wait`, without blocking the host before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastsam2.engine.runtime import offload
from fastsam2.engine.runtime.offload import HostCopy, PendingOffload
from fastsam2.types import FrameOutput


@pytest.fixture
def host_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that all tensors are on a device; returns the calls that the host makes to it."""
    log: list[str] = []

    @contextmanager
    def enter() -> Iterator[None]:
        log.append("enter")
        yield
        log.append("leave")

    def record_event(device: torch.device) -> Any:
        return SimpleNamespace(
            wait=lambda used: log.append(f"wait for {len(used)}"),
            synchronize=lambda: log.append("synchronize"),
        )

    monkeypatch.setattr(offload, "_on_host", lambda x: False)
    monkeypatch.setattr(offload, "side_stream", lambda device, name: SimpleNamespace(enter=enter))
    monkeypatch.setattr(offload, "record_event", record_event)
    return log


def test_tensors_of_all_kinds(host_calls: list[str]) -> None:
    given = [torch.randn(3, 1), torch.arange(5), torch.randn(2, 2).half(), torch.zeros(0, 4)]
    given.append(torch.randn(4, 6).T)
    copy = HostCopy(given)
    assert host_calls == ["enter", "wait for 5", "leave"]  # and the host continues
    found = copy.wait()
    assert host_calls[3:] == ["synchronize"]
    for a, b in zip(found, given, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr() or not a.numel()


def test_cpu_tensors_are_not_copied() -> None:
    given = [torch.randn(3), torch.arange(3)]
    assert all(a is b for a, b in zip(HostCopy(given).wait(), given, strict=True))
    assert HostCopy([]).wait() == []


def output() -> FrameOutput:
    return FrameOutput(
        torch.randn(1, 4, 2, 2).bfloat16(),
        [torch.zeros(1)],
        torch.randn(1, 1, 8, 8),
        torch.randn(1, 4),
        torch.randn(1, 1),
        torch.rand(1),
    )


NAMES = ("maskmem_features", "pred_masks", "obj_ptr", "object_score_logits", "predicted_iou")


def tensors(x: FrameOutput) -> dict[str, torch.Tensor]:
    return {name: getattr(x, name) for name in NAMES if getattr(x, name) is not None}


def test_outputs_keep_device_tensors_until_the_copy_is_done(host_calls: list[str]) -> None:
    outputs = [output(), output()]
    outputs[1].predicted_iou = None
    before = [tensors(x) for x in outputs]
    leaving = PendingOffload([(x, [*NAMES]) for x in outputs])
    assert [tensors(x) for x in outputs] == before
    outputs[0].obj_ptr = mine = torch.zeros(1, 4)  # by a client, meanwhile
    leaving.finish()
    assert outputs[0].obj_ptr is mine
    for now, old in zip(outputs, before, strict=True):
        for name, tensor in tensors(now).items():
            if tensor is not mine:
                assert tensor is not old[name]
                assert torch.equal(tensor, old[name])
