"""What goes to the CPU arrives whole, once the device has got there."""

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
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if all tensors lay on a device; what the host asks of it."""
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


def test_tensors_of_all_kinds(elsewhere: list[str]) -> None:
    given = [torch.randn(3, 1), torch.arange(5), torch.randn(2, 2).half(), torch.zeros(0, 4)]
    given.append(torch.randn(4, 6).T)
    copy = HostCopy(given)
    assert elsewhere == ["enter", "wait for 5", "leave"]  # and the host goes on
    found = copy.wait()
    assert elsewhere[3:] == ["synchronize"]
    for a, b in zip(found, given, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr() or not a.numel()


def test_what_is_on_the_cpu_stays() -> None:
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


def test_outputs_are_where_they_were_until_the_copy_is_done(elsewhere: list[str]) -> None:
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
