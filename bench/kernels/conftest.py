"""Options and fixtures of the micro-benchmarks: `python -m pytest bench/kernels --benchmark-only`.

Beside the times, each is held against the least time that this machine needs for the work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.limits import measure_limits

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IMPLS = ["kernel", "reference", "compiled", "sam2"]
Measure = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastsam2")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group.addoption("--dtype", choices=DTYPES, help="default: bf16 on a GPU, fp32 elsewhere")
    group.addoption("--image-size", type=int, default=1024, help="pixels, a multiple of 64")
    group.addoption("--objects", default=None, help="such as 1,4,16; default: 1 without a GPU")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    if "objects" in metafunc.fixturenames:
        default = "1,4,16" if config.getoption("--device").startswith("cuda") else "1"
        counts = (config.getoption("--objects") or default).split(",")
        metafunc.parametrize("objects", [int(n) for n in counts], ids=lambda n: f"{n}-objects")
    if "impl" in metafunc.fixturenames:
        metafunc.parametrize("impl", IMPLS)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest, device: torch.device) -> torch.dtype:
    default = "bf16" if device.type == "cuda" else "fp32"
    return DTYPES[request.config.getoption("--dtype") or default]


@pytest.fixture(scope="session")
def grid(request: pytest.FixtureRequest) -> int:
    """Side of the image's feature map."""
    return int(request.config.getoption("--image-size")) // 16


@pytest.fixture
def measure(
    benchmark: Any, impl: str, device: torch.device, dtype: torch.dtype, request: Any
) -> Measure:
    """Time one of several functions that do the same, the one named by `impl`.

    `functions` maps names to functions of no arguments; "kernel" is fastsam2's op, whose formula
    counts the work. `moved`: the tensors that are read or written at least once.
    """

    def run(functions: dict[str, Callable[[], Any]], moved: Sequence[Tensor]) -> None:
        if impl not in functions:
            pytest.skip(f"{impl} does not apply")
        if impl == "compiled" and shutil.which("g++") is None:
            pytest.skip("torch.compile needs g++")
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            out = functions["kernel"]()
        tensors = [*moved, *(out if isinstance(out, tuple) else (out,))]

        @torch.inference_mode()
        def call() -> None:
            functions[impl]()
            if device.type == "cuda":
                torch.cuda.synchronize()

        call()
        rounds = 30 if device.type == "cuda" else 5
        benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)
        if benchmark.stats is None:
            return
        least = measure_limits(device, dtype).least_seconds(
            counter.get_total_flops(), sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        )
        median = benchmark.stats.stats.median
        benchmark.extra_info["of_limit"] = least / median
        _ROWS.append((request.node.name, 1e3 * median, 100 * least / median))

    return run


_ROWS: list[tuple[str, float, float]] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _ROWS:
        width = max(len(name) for name, _, _ in _ROWS)
        terminalreporter.section("median time, and the least the machine needs for the work")
        for name, milliseconds, percent in _ROWS:
            terminalreporter.write_line(f"{name:{width}} {milliseconds:10.3f} ms {percent:6.1f} %")
