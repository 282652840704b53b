"""Masks, a label image, areas and boxes at video size from low-resolution logits, in one pass."""

from __future__ import annotations

from fastsam2_kernels.mask_output.bits import (
    RunLengths,
    areas_of,
    boxes_of,
    pack_bits,
    run_lengths,
    unpack_bits,
)
from fastsam2_kernels.mask_output.op import mask_output
from fastsam2_kernels.mask_output.reference import MaskOutput

__all__ = [
    "MaskOutput",
    "RunLengths",
    "areas_of",
    "boxes_of",
    "mask_output",
    "pack_bits",
    "run_lengths",
    "unpack_bits",
]
