"""Every op at its size during tracking: `python -m pytest bench/kernels --benchmark-only`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.kernels.cases import CASES
from bench.roofline import measure_limits


@pytest.mark.parametrize("name", CASES)
def test_op(
    name: str,
    impl: str,
    objects: int,
    device: torch.device,
    dtype: torch.dtype,
    grid: int,
    benchmark: Any,
    report: list[tuple[str, float, float]],
    request: pytest.FixtureRequest,
) -> None:
    case = CASES[name](device, dtype, grid, objects)
    calls = case.calls()
    if impl not in calls:
        pytest.skip(f"{impl} does not apply, or is not installed")

    @torch.inference_mode()
    def call() -> None:
        calls[impl]()
        if device.type == "cuda":
            torch.cuda.synchronize()

    call()
    benchmark.pedantic(call, rounds=30 if device.type == "cuda" else 5, warmup_rounds=1)
    if benchmark.stats is None:
        return
    least = measure_limits(device, dtype).least_seconds(*case.work())
    median = benchmark.stats.stats.median
    benchmark.extra_info["of_limit"] = least / median
    report.append((request.node.name, 1e3 * median, 100 * least / median))
