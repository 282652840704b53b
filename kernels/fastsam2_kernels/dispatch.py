"""Choice of the implementation of an op."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal

from torch import Tensor

from fastsam2_kernels.launch_config import capability_of

__all__ = ["Impl", "interpreting", "uses_triton"]

#: "auto" selects the Triton kernel on GPUs of compute capability 8.0 and newer, otherwise the
#: reference or an equivalent schedule for the CPU. "triton" and "reference" run or raise.
Impl = Literal["auto", "triton", "reference"]


def interpreting() -> bool:
    """True if Triton interprets kernels: they run on the CPU, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def uses_triton(impl: str, tensor: Tensor) -> bool:
    """True if `impl` selects the Triton kernel on the device of `tensor`.

    Raises:
        ValueError: `impl` is not "auto", "triton" or "reference".
        RuntimeError: `impl` is "triton", and Triton or a CUDA device is missing.
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
