"""Quantiles, order of trackers, and limits of the hardware."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from bench import roofline, timing
from bench.roofline import Limits, measure_limits, roof_rows
from bench.timing import Times, time_call, time_frames

CPU = torch.device("cpu")


def test_quantiles() -> None:
    times = Times.of([float(x) for x in range(101)])
    assert (times.p20, times.p50, times.p80) == (20.0, 50.0, 80.0)
    assert times.per_second == pytest.approx(1e3 * 101 / 5050)
    # With overlapping frames the rate is higher than single times suggest.
    assert Times.of([10.0, 10.0], total=10.0).per_second == 200.0


def test_calls_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "now", time.perf_counter)
    times = time_call(lambda: time.sleep(0.002), CPU, rounds=3)
    assert 2.0 <= times.p20 <= times.p50 <= times.p80


def test_frames_alternate_on_a_cpu() -> None:
    seen: list[str] = []

    def track(name: str) -> Iterator[None]:
        while True:
            seen.append(name)
            yield

    times = time_frames({"a": track("a"), "b": track("b")}, 3, CPU)
    assert seen == ["a", "b"] * 3
    assert list(times) == ["a", "b"]


def test_frames_of_a_gpu_are_timed_by_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    waits: list[torch.device] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(clock)

        def elapsed_time(self, other: Event) -> float:
            return float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    device = torch.device("cuda")
    times = time_frames({"a": iter(range(9))}, 5, device)["a"]
    assert (times.p20, times.p50, times.p80) == (4.0, 4.0, 4.0)
    assert waits == [device, device], "the run is timed from idle to idle"


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits(flops=10.0, bandwidth=5.0).least_seconds(20.0, 20.0) == 4.0
    rows = roof_rows(CPU, torch.float32)
    assert [row.name for row in rows] == ["copy", "matrix product"]
    assert all(row.per_second is not None and row.per_second > 0 for row in rows)
    limits = measure_limits(CPU, torch.float32)
    # The printed rates are those used as limits.
    assert rows[1].per_second is not None
    assert limits.flops == pytest.approx(1e12 * rows[1].per_second)
    assert limits.bandwidth == pytest.approx(1e9 * (rows[0].per_second or 0))
    assert roofline.measure_limits(CPU, torch.float32) is limits
