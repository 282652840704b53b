"""Launch parameters of mask downsampling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """Launch parameters of the two kernels.

    A pixel takes 64 values of the patch and 64 of the first stage: 8 warps for 128 pixels.

    Attributes:
        block, num_warps: output pixels and warps of a program of the first two stages.
        norm_elements, norm_warps: maximum elements and warps of a program of norm and GELU.
    """

    block: int = 128
    num_warps: int = 8
    norm_elements: int = 4096
    norm_warps: int = 4


def choose(dtype: torch.dtype, device: torch.device) -> Launch:
    """Return the launch measured on `device` for weights of `dtype`, or the default."""
    found = measured("mask_downsample", device, dtype=dtype)
    return replace(Launch(), **found)
