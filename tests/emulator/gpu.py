"""An emulated GPU on which `impl="triton"` runs the kernels of CPU tensors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.emulator.driver import Driver, active
from tests.kernels.launching import OPS, choosers, launching_for

__all__ = ["OPS", "RACING_ARGUMENTS", "emulated", "forced"]

_PROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132}

#: Races between programs that kernels allow, with the reason why they are harmless.
RACING_ARGUMENTS = {
    "join_kernel": {
        "p_parent": "a walk may see an old parent, which is connected to the pixel too; parents "
        "change by atomics only, whose results show whether a root still is one",
    },
    "settle_kernel": {
        "p_parent": "a parent is replaced by its root while other programs walk: both lead there",
    },
    "paint_kernel": {
        "p_areas": "areas are read at roots only, where the same value is written again",
    },
}


@contextmanager
def emulated(capability: int) -> Iterator[Driver]:
    """Run kernels as on a GPU of `capability`; memory from `torch.empty` is NaN.

    Raises:
        RuntimeError: kernels are interpreted in this process.
    """
    driver = Driver(capability, RACING_ARGUMENTS)
    with launching_for(capability, _PROCESSORS[capability]), active(driver) as gpu:
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield gpu
        finally:
            torch.use_deterministic_algorithms(deterministic)


@contextmanager
def forced(op: str, launch: Any, splits: int | None = None) -> Iterator[None]:
    """Launch the kernels of `op` with the parameters `launch`, and attention with `splits`."""
    kernel = importlib.import_module(f"fastsam2_kernels.{op}.kernel")
    with pytest.MonkeyPatch.context() as patch:
        for function in choosers(op):
            if hasattr(kernel, function.__name__):
                patch.setattr(kernel, function.__name__, lambda *_, **__: launch)
        if splits is not None:
            patch.setattr(kernel, "choose_splits", lambda *_: splits)
        yield
