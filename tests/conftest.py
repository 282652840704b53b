"""Fixtures shared by all tests: pairs of models with the same weights, and small clips."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import pytest
import torch

# Read at the first import of a kernel: without a GPU, kernels are interpreted, or, in
# tests/emulator, executed by an emulator.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests of kernels also run without `sam2`, as on a machine with a GPU and little else.
if importlib.util.find_spec("sam2") is not None:
    from tests.pairs import clip, long_clip, pair, tiny_pair  # noqa: F401


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Raise if a CUDA graph cannot be recorded; a test that expects it calls the fixture."""
    from fastsam2.engine.runtime import cuda_graphs  # after `sam2`: see tests/reference.py

    def fail(error: RuntimeError) -> None:
        raise error

    allowed = cuda_graphs.fall_back
    monkeypatch.setattr(cuda_graphs, "fall_back", fail)
    return lambda: monkeypatch.setattr(cuda_graphs, "fall_back", allowed)
