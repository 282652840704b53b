"""Choice of the implementation of an op."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from typing import Literal

from torch import Tensor

from fastsam2_kernels.launch_config import capability_of, family

__all__ = ["Impl", "gluon_misfit", "has_gluon", "interpreting", "on_gpu", "uses_triton"]

#: "auto" selects the Triton kernel on GPUs of compute capability 8.0 and newer, otherwise the
#: reference or an equivalent schedule for the CPU. "triton" and "reference" run or raise.
Impl = Literal["auto", "triton", "reference"]


def interpreting() -> bool:
    """True if Triton interprets kernels: they run on the CPU, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def on_gpu(tensor: Tensor) -> bool:
    """True if compiled kernels run on the device of `tensor`."""
    return tensor.device.type == "cuda"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _triton_version() -> str:
    if not _has_triton():
        return "none"
    import triton

    return str(triton.__version__)


def has_gluon() -> bool:
    """True if Triton has what Gluon kernels use: since 3.6."""
    version = re.match(r"(\d+)\.(\d+)", _triton_version())
    return version is not None and (int(version[1]), int(version[2])) >= (3, 6)


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
    if impl == "auto":
        return on_gpu(tensor) and _has_triton() and capability_of(tensor.device) >= 80
    if not _has_triton():
        raise RuntimeError("impl='triton' needs the triton package, which is not installed")
    if not on_gpu(tensor) and not interpreting():
        raise RuntimeError(f"impl='triton' needs a CUDA tensor, not one on {tensor.device}")
    return True


def gluon_misfit(tensor: Tensor) -> RuntimeError | None:
    """Return the error if Gluon kernels, which are written for Hopper, cannot run on the device of
    `tensor`, None if they can."""
    if not has_gluon():
        return RuntimeError(f"impl='gluon' needs Triton 3.6 or newer, found {_triton_version()}")
    if not on_gpu(tensor):
        return RuntimeError(
            f"impl='gluon' needs a CUDA tensor, not one on {tensor.device}; "
            "Triton's interpreter does not run Gluon"
        )
    if interpreting():
        return RuntimeError("impl='gluon' cannot run with TRITON_INTERPRET=1")
    capability = capability_of(tensor.device)
    if family(capability) != 90:
        return RuntimeError(
            f"impl='gluon' needs a GPU of compute capability 9.0, not {capability / 10}"
        )
    return None
