"""Lanes and marks: nothing where a device works when told, streams and events on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastsam2.engine.runtime.streams import current_device, record_event, side_stream

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


def test_on_a_cpu_there_is_nothing_to_wait_for() -> None:
    x = torch.ones(2)
    with current_device(CPU), side_stream(CPU, "encoder").enter():
        x += 1
        done = record_event(CPU)
    done.wait([x])
    done.synchronize()
    assert x.tolist() == [2, 2]


def test_marks_on_a_gpu_are_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: what is asked of its streams tells."""
    log: list[Any] = []
    event = SimpleNamespace(synchronize=lambda: log.append("synchronize"))

    def stream(name: str) -> Any:
        return SimpleNamespace(
            record_event=lambda: log.append(f"record in {name}") or event,
            wait_event=lambda waited: log.append((f"wait in {name}", waited is event)),
        )

    streams = {"caller": stream("caller"), "other": stream("other")}
    current = ["other"]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[current[0]])
    done = record_event(GPU)
    current[0] = "caller"
    used = SimpleNamespace(record_stream=lambda s: log.append(("used", s is streams["caller"])))
    done.wait([used])  # type: ignore[list-item]
    done.synchronize()
    assert log == ["record in other", ("wait in caller", True), ("used", True), "synchronize"]
