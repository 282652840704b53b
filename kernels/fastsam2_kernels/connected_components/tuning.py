"""Launch parameters of connected components."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """How the kernels of the op are launched.

    The kernels are bound by the latency of memory, alike on every GPU.

    Attributes:
        blocks: 2x2 blocks of pixels of a program that prepares them, which joins rows of them.
        block_warps: its warps.
        join_blocks: 2x2 blocks of a program that joins them. Its threads wait for the one with the
            longest path, and one warp waits without a barrier.
        join_warps: its warps.
        pixels: pixels of a program of the other kernels.
        pixel_warps: its warps.
    """

    blocks: int = 512
    block_warps: int = 4
    join_blocks: int = 128
    join_warps: int = 1
    pixels: int = 1024
    pixel_warps: int = 4


def choose(device: torch.device) -> Launch:
    """The launch on `device`."""
    return replace(Launch(), **measured("connected_components", device))
