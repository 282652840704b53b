"""Which implementation of an op runs."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal

from torch import Tensor

from fastsam2_kernels.launch_config import capability_of

__all__ = ["Impl", "interpreting", "uses_triton"]

#: `auto` takes the Triton kernel on a GPU that has tensor cores for it and the reference, or its
#: schedule for the CPU, elsewhere. One that is named runs or raises.
Impl = Literal["auto", "triton", "reference"]


def interpreting() -> bool:
    """Whether Triton interprets kernels, which runs them on the CPU, slowly, to test them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def uses_triton(impl: str, tensor: Tensor) -> bool:
    """Whether the Triton kernel is to run on `tensor`'s device.

    Raises:
        ValueError: `impl` is none of `auto`, `triton`, `reference`.
        RuntimeError: `triton` was asked for and cannot run there; the message says why.
    """
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl must be 'auto', 'triton' or 'reference', not {impl!r}")
    if impl == "reference":
        return False
    on_gpu = tensor.device.type == "cuda"
    if impl == "auto":
        return on_gpu and _has_triton() and capability_of(tensor.device) >= 80
    if not _has_triton():
        raise RuntimeError("impl='triton' needs the triton package, which is not installed")
    if not on_gpu and not interpreting():
        raise RuntimeError(f"impl='triton' needs a CUDA tensor, not one on {tensor.device}")
    return True
