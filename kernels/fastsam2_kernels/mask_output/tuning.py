"""Launch parameters of mask output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """Launch parameters; by default 1024 pixels per program, 8 per thread.

    Attributes:
        rows: rows of pixels per program.
        columns: bytes per row of a program, 8 pixels each.
        num_warps: warps per program.
    """

    rows: int = 4
    columns: int = 32
    num_warps: int = 4


def choose(device: torch.device) -> Launch:
    """Return the launch parameters for `device`."""
    return replace(Launch(), **measured("mask_output", device))
