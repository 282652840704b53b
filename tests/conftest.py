"""Fixtures shared by all tests: pairs of models with the same weights, and small clips."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import pytest
import torch

# Read when a kernel is first imported: where there is no GPU, kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Without it, as on a machine with a GPU and little else, tests of kernels still run.
if importlib.util.find_spec("sam2") is not None:
    from tests.pairs import clip, long_clip, pair, tiny_pair  # noqa: F401


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Raise where a CUDA graph cannot be recorded; a test that expects this calls the fixture."""
    from fastsam2.engine.runtime import cuda_graphs  # after `sam2`: see tests/reference.py

    def fail(error: RuntimeError) -> None:
        raise error

    allowed = cuda_graphs.fall_back
    monkeypatch.setattr(cuda_graphs, "fall_back", fail)
    return lambda: monkeypatch.setattr(cuda_graphs, "fall_back", allowed)
