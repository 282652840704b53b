"""Options and fixtures of the micro-benchmarks: `python -m pytest bench/kernels --benchmark-only`.

Each time is compared with the least time that this machine needs for the work (roofline).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.rows import NAMES

IMPLS = ["kernel", "gluon", "reference", "compiled", "sam2"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastsam2")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group.addoption("--dtype", choices=NAMES, help="default: bf16 on a GPU, fp32 elsewhere")
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
    return NAMES[request.config.getoption("--dtype") or default]


@pytest.fixture(scope="session")
def grid(request: pytest.FixtureRequest) -> int:
    """Side of the feature map of the image."""
    return int(request.config.getoption("--image-size")) // 16


_ROWS: list[tuple[str, float, float]] = []


@pytest.fixture(scope="session")
def report() -> list[tuple[str, float, float]]:
    """Rows of the summary: name, milliseconds, least time as a percentage of it."""
    return _ROWS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _ROWS:
        width = max(len(name) for name, _, _ in _ROWS)
        terminalreporter.section("median time, and the least time as a percentage of it")
        for name, milliseconds, percent in _ROWS:
            terminalreporter.write_line(f"{name:{width}} {milliseconds:10.3f} ms {percent:6.1f} %")
