"""Launch parameters of the kernel."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import capability_of, measured

__all__ = ["DIMS", "WIDTHS", "Launch", "choose", "tuned"]

DIMS = (32, 64, 128, 256)  #: widths D of keys that the kernel takes
WIDTHS = (16, 32, 64, 128)  #: widths M of latents


@dataclass(frozen=True)
class Launch:
    """Tile of `block_t` tokens by `block_c` channels of each half, and launch options."""

    block_t: int
    block_c: int
    num_warps: int
    num_stages: int


def choose(dim: int, dtype: torch.dtype, capability: int) -> Launch:
    """Return launch parameters by rule.

    Args:
        dim: width D of a key.
        capability: of the GPU, as 10 * major + minor.
    """
    if dtype == torch.float32:
        # The three TF32 products would spill with more channels.
        block_c, num_warps = 16, 4
    else:
        # Wgmma takes 64 channels at least.
        block_c, num_warps = (64, 8) if capability >= 90 else (32, 4)
    return Launch(block_t=64, block_c=min(block_c, dim // 2), num_warps=num_warps, num_stages=3)


@functools.cache
def tuned(dim: int, dtype: torch.dtype, device: torch.device) -> Launch:
    """Return the parameters measured on this GPU for this call, or the rule's choice."""
    found = measured("memory_keys", device, dim=dim, dtype=dtype)
    return replace(choose(dim, dtype, capability_of(device)), **found)
