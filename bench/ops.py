"""Times of the ops, without pytest: rows of the cases in `bench/kernels`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bench.kernels.cases import CASES
from bench.roofline import measure_limits
from bench.rows import NAMES, Row, measured_on
from bench.scenarios import failed
from bench.timing import time_call

__all__ = ["op_rows"]


@torch.inference_mode()
def op_rows(
    device: torch.device,
    dtype: str,
    image_size: int,
    objects: Sequence[int],
    impls: Sequence[str] = ("kernel", "gluon", "reference", "sam2"),
) -> Iterator[Row]:
    """Yield the time of each op with each of `impls` that is available, and its roofline share."""
    limits = measure_limits(device, NAMES[dtype])
    for name, make in CASES.items():
        for count in objects:
            about = {
                "image_size": image_size, "objects": count, "dtype": dtype, **measured_on(device)
            }  # fmt: skip
            try:
                case = make(device, NAMES[dtype], image_size // 16, count)
                flops, moved = case.work()
                calls = case.calls()
            except Exception as error:  # a failing op must not lose the others
                yield Row("op", name, "kernel", note=failed(error), **about)
                continue
            least = 1e3 * limits.least_seconds(flops, moved)
            for impl in impls:
                if impl not in calls:
                    continue
                try:
                    times = time_call(calls[impl], device)
                except Exception as error:
                    yield Row("op", name, impl, note=failed(error), **about)
                    continue
                yield Row(
                    "op", name, impl, gflop=flops / 1e9, of_roof=least / times.p50,
                    **times.fields, **about,
                )  # fmt: skip
