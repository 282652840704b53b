"""Launch parameters of the resize."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """Launch parameters of both passes; by default 1024 pixels per program, 8 per thread.

    Attributes:
        rows, columns: rows and columns of output pixels per program.
        num_warps: warps per program.
    """

    rows: int = 4
    columns: int = 256
    num_warps: int = 4


def choose(dtype: torch.dtype, device: torch.device) -> Launch:
    """Return the launch measured on `device` for outputs of `dtype`, or the default."""
    if device.type != "cuda":
        # In the interpreter, larger tiles take fewer steps.
        return Launch(64, 64, 4)
    return replace(Launch(), **measured("resize", device, dtype=dtype))
