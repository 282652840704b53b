"""Masks at the size of the video from logits at low resolution, in little memory."""

from __future__ import annotations

from fastsam2_kernels.mask_output.op import mask_output
from fastsam2_kernels.mask_output.reference import RunLengths

__all__ = ["RunLengths", "mask_output"]
