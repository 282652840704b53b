"""Measure times of calls and frames; quantiles, on a GPU by its events."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = [
    "Times",
    "now",
    "peak_mb",
    "reset_peak",
    "synchronize",
    "time_call",
    "time_frames",
]


@dataclass(frozen=True)
class Times:
    """Quantiles of times in milliseconds, and a rate."""

    p20: float
    p50: float
    p80: float
    per_second: float  #: over the whole run, if frames may overlap

    @classmethod
    def of(cls, milliseconds: Sequence[float], total: float | None = None) -> Times:
        """Summarise times; `total` is the time of the whole run if the single ones overlap."""
        p20, p50, p80 = (float(x) for x in np.quantile(milliseconds, (0.2, 0.5, 0.8)))
        whole = sum(milliseconds) if total is None else total
        return cls(p20, p50, p80, 1e3 * len(milliseconds) / whole)

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of a `Row`."""
        return {
            "p20_ms": self.p20,
            "p50_ms": self.p50,
            "p80_ms": self.p80,
            "per_second": self.per_second,
        }


def peak_mb(device: torch.device) -> float | None:
    """Peak GPU memory allocated since `reset_peak`, in MB; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 1e6


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def now() -> float:
    """Time in seconds; CPU time if PyTorch uses one thread, to exclude other processes."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device, rounds: int = 7) -> Times:
    """Time a function after a warm-up call.

    On a GPU with a cold cache before each call, for 100 ms; on a CPU, `rounds` times.
    """
    function()
    if device.type == "cuda":
        from triton.testing import do_bench

        p20, p50, p80 = do_bench(function, warmup=25, rep=100, quantiles=(0.2, 0.5, 0.8))
        return Times(p20, p50, p80, 1e3 / p50)
    spent = []
    for _ in range(rounds):
        begin = now()
        function()
        spent.append(1e3 * (now() - begin))
    return Times.of(spent)


def time_frames(
    tracks: dict[str, Iterator[Any]], frames: int, device: torch.device
) -> dict[str, Times]:
    """Time the next frames of several trackers.

    On a CPU their frames alternate, so that other load affects all alike. On a GPU the trackers run
    one after another, since a frame often starts before the previous one has finished.
    """
    if device.type == "cuda":
        return {name: _time_run(track, frames, device) for name, track in tracks.items()}
    spent: dict[str, list[float]] = {name: [] for name in tracks}
    for _ in range(frames):
        for name, track in tracks.items():
            begin = now()
            next(track)
            spent[name].append(1e3 * (now() - begin))
    return {name: Times.of(each) for name, each in spent.items()}


def _time_run(track: Iterator[Any], frames: int, device: torch.device) -> Times:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(frames + 1)]
    synchronize(device)
    begin = time.perf_counter()
    events[0].record()
    for event in events[1:]:
        next(track)
        event.record()
    synchronize(device)
    total = 1e3 * (time.perf_counter() - begin)
    each = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    return Times.of(each, total)
