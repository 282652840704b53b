"""Pillow's bicubic resize of RGB images, fused with normalisation."""

from __future__ import annotations

from fastsam2_kernels.resize.normalize import normalize
from fastsam2_kernels.resize.op import resize

__all__ = ["normalize", "resize"]
