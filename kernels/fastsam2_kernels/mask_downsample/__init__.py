"""Downsample a mask to the features that the memory encoder adds to the image features."""

from __future__ import annotations

from fastsam2_kernels.mask_downsample.op import mask_downsample
from fastsam2_kernels.mask_downsample.reference import DownsampleStage, MaskDownsampleWeights

__all__ = ["DownsampleStage", "MaskDownsampleWeights", "mask_downsample"]
