"""Launch parameters of mask downsampling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launches import capability_of, measured

__all__ = ["Launch", "choose", "default"]


@dataclass(frozen=True)
class Launch:
    """How the two kernels of the op are launched.

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


def default(dtype: torch.dtype, capability: int) -> Launch:
    """The choice by rule, for weights of `dtype` on a GPU of `capability` (such as 90).

    A pixel needs 64 patch values and 64 values of the first stage in float32, which is what limits
    a program: 64 pixels on 4 warps leave no spills on any architecture, 128 would need 8 warps.
    """
    return Launch()


def choose(dtype: torch.dtype, device: torch.device) -> Launch:
    """The launch for weights of `dtype` on `device`."""
    found = measured("mask_downsample", device, dtype=dtype)
    return replace(default(dtype, capability_of(device)), **found)
