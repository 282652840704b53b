"""Launch parameters: a rule on shape, dtype and GPU, which measurements override."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import capability_of, family, measured

__all__ = ["CHANNELS", "Launch", "choose", "launch_for"]

#: Widths the kernels are compiled for.
CHANNELS = (128, 256)


@dataclass(frozen=True)
class Launch:
    """Launch parameters of the two kernels.

    Attributes:
        pixels, conv_warps: pixels and warps of a program of the convolution.
        block_m, block_h: pixels and hidden channels of a tile of the linear layers.
        num_warps, num_stages: launch options of the linear layers.
    """

    pixels: int
    conv_warps: int
    block_m: int
    block_h: int
    num_warps: int
    num_stages: int


# Each compiles without spills and within the shared memory of its GPU. 64 rows: every program
# reads both weight matrices, and 4 warps of wgmma take 64. 3 stages: one tile of the weights is
# copied while another is used.
_HALF = {
    **{(family, 256): Launch(16, 8, 64, 32, 4, 3) for family in (80, 90, 100)},
    (89, 256): Launch(16, 8, 32, 32, 4, 3),
    **{(family, 128): Launch(16, 4, 64, 64, 4, 3) for family in (80, 89, 90, 100)},
}
# Float32 takes three TF32 products, whose registers limit the tile.
_SINGLE = {256: Launch(8, 8, 16, 16, 2, 3), 128: Launch(8, 4, 16, 32, 4, 3)}


def choose(channels: int, dtype: torch.dtype, capability: int) -> Launch:
    """Return the tiles for `channels`, independent of the number of pixels."""
    return _SINGLE[channels] if dtype == torch.float32 else _HALF[family(capability), channels]


@functools.cache
def launch_for(device: torch.device, pixels: int, channels: int, dtype: torch.dtype) -> Launch:
    """Return the launch measured on `device`, or the rule's choice."""
    if device.type != "cuda":
        # In the interpreter, larger tiles take fewer steps.
        return Launch(128, 4, 128, 256, 8, 2)
    chosen = choose(channels, dtype, capability_of(device))
    found = measured("cx_block", device, pixels=pixels, channels=channels, dtype=dtype)
    return replace(chosen, **found)
