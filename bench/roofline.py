"""Measure the limits of the hardware: `python -m bench.roofline`.

Other times are compared with the rates of a large copy and a large matrix product.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass

import torch

from bench.rows import NAMES, Row, measured_on
from bench.timing import Times, time_call

__all__ = ["Limits", "main", "measure_limits", "roof_rows"]


@dataclass(frozen=True)
class Limits:
    """Rates of one device."""

    flops: float  #: operations per second of a large matrix product
    bandwidth: float  #: bytes read and written per second by a large copy

    def least_seconds(self, flops: float, moved: float = 0.0) -> float:
        """Lower bound on the time of `flops` operations and `moved` bytes."""
        return max(flops / self.flops, moved / self.bandwidth)


@functools.cache
def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """Measure a matrix product in `dtype` and a copy, on random data."""
    (_, rate), (_, copied) = _product(device, dtype), _copy(device)
    return Limits(flops=1e12 * rate, bandwidth=1e9 * copied)


def roof_rows(device: torch.device, dtype: torch.dtype) -> list[Row]:
    """Measure the copy in GB/s and the matrix product in TFLOP/s."""
    name = next(key for key, value in NAMES.items() if value == dtype)
    where = measured_on(device)
    rows = []
    for title, unit, (times, rate) in (
        ("copy", "GB/s", _copy(device)),
        ("matrix product", "TFLOP/s", _product(device, dtype)),
    ):
        fields = times.fields | {"per_second": rate}
        rows.append(Row("roof", title, unit, dtype=name, **fields, **where))
    return rows


@functools.cache
def _product(device: torch.device, dtype: torch.dtype) -> tuple[Times, float]:
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    times = time_call(lambda: a @ b, device)
    return times, 2 * n**3 / times.p50 / 1e9


@functools.cache
def _copy(device: torch.device) -> tuple[Times, float]:
    size = 2**30 if device.type == "cuda" else 2**26
    x = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    times = time_call(lambda: y.copy_(x), device)
    return times, 2 * size / times.p50 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], prog="python -m bench.roofline"
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    parser.add_argument("--dtype", default="bf16" if default == "cuda" else "fp32", choices=NAMES)
    args = parser.parse_args()
    for row in roof_rows(torch.device(args.device), NAMES[args.dtype]):
        print(f"{row.name:16} {row.per_second:10.2f} {row.impl}")


if __name__ == "__main__":
    main()
