"""Streams and events: no-ops on a CPU, CUDA streams and events on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastsam2.engine.runtime.streams import current_device, record_event, side_stream

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


def test_cpu_streams_and_events_are_no_ops() -> None:
    x = torch.ones(2)
    with current_device(CPU), side_stream(CPU, "encoder").enter():
        x += 1
        done = record_event(CPU)
    done.wait([x])
    done.synchronize()
    assert x.tolist() == [2, 2]


def test_gpu_streams_and_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks the calls to fake CUDA streams, as there is no GPU."""
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
