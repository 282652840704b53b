"""What the machine itself can do, measured: the roof that a kernel's time is held against."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Limits", "measure_limits", "seconds"]


@dataclass(frozen=True)
class Limits:
    """Rates of one device."""

    flops: float  #: of a large matrix product, a second
    bandwidth: float  #: bytes read and written by a large copy, a second

    def least_seconds(self, flops: float, moved: float) -> float:
        """No schedule of so many operations and bytes takes less."""
        return max(flops / self.flops, moved / self.bandwidth)


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest time of several calls."""
    best = float("inf")
    for _ in range(repeats + 1):
        _synchronize(device)
        begin = time.perf_counter()
        function()
        _synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@functools.cache
def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """Measure a matrix product of `dtype` and a copy."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    product = seconds(lambda: a @ b, device)
    x = torch.empty(2**28 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    copy = seconds(lambda: y.copy_(x), device)
    return Limits(flops=2 * n**3 / product, bandwidth=2 * x.numel() / copy)
