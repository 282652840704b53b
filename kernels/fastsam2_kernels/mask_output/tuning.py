"""Launch parameters of mask output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """Launch of the kernel: 1024 pixels a program, 8 a thread.

    Attributes:
        rows: rows of pixels of a program.
        columns: bytes of a row of a program, 8 pixels each.
        num_warps: warps of a program.
    """

    rows: int = 4
    columns: int = 32
    num_warps: int = 4


def choose(device: torch.device) -> Launch:
    """Launch parameters for `device`."""
    return replace(Launch(), **measured("mask_output", device))
