"""Launch parameters of mask downsampling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import measured

__all__ = ["Launch", "choose"]


@dataclass(frozen=True)
class Launch:
    """How the two kernels of the op are launched.

    A pixel holds 64 patch values and 64 of the first stage, which takes 8 warps for 128.

    Attributes:
        block: output pixels of a program of the first two stages.
        num_warps: its warps.
        norm_elements: elements of a program of the norm and GELU, at most.
        norm_warps: its warps.
    """

    block: int = 128
    num_warps: int = 8
    norm_elements: int = 4096
    norm_warps: int = 4


def choose(dtype: torch.dtype, device: torch.device) -> Launch:
    """The launch for weights of `dtype` on `device`."""
    found = measured("mask_downsample", device, dtype=dtype)
    return replace(Launch(), **found)
