"""A ConvNeXt block on channels-last images."""

from __future__ import annotations

from fastsam2_kernels.cx_block.op import cx_block
from fastsam2_kernels.cx_block.tuning import CHANNELS

__all__ = ["CHANNELS", "cx_block"]
