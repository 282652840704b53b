"""Launch parameters of connected components."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """Launch parameters of the kernels; bound by memory latency, they are alike on every GPU.

    Attributes:
        blocks, block_warps: 2x2 blocks of pixels and warps of a program of `start_kernel`.
        join_blocks, join_warps: the same of `join_kernel`. Threads wait for the one with the
            longest path; a single warp does so without a barrier.
        pixels, pixel_warps: pixels and warps of a program of the other kernels.
    """

    blocks: int = 512
    block_warps: int = 4
    join_blocks: int = 128
    join_warps: int = 1
    pixels: int = 1024
    pixel_warps: int = 4


def choose(device: torch.device) -> Launch:
    """Return the launch measured on `device`, or the default."""
    return replace(Launch(), **measured("connected_components", device))
