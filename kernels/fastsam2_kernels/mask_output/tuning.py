"""Launch parameters of mask output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """How the kernels of the op are launched.

    1024 pixels or 256 bytes a program, 8 pixels a thread or more.

    Attributes:
        rows, columns: pixels of a program that writes bool; for bits, `columns` is in bytes.
        run_rows, run_columns: pixels of a program that looks for the ends of runs. Columns that
            share the sectors of the logits share a program.
        num_warps: warps of each.
    """

    rows: int = 8
    columns: int = 128
    byte_rows: int = 8
    byte_columns: int = 32
    run_rows: int = 128
    run_columns: int = 8
    num_warps: int = 4


def choose(device: torch.device) -> Launch:
    """The launch on `device`."""
    return replace(Launch(), **measured("mask_output", device))
