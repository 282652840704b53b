"""Decoded pictures as RGB frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsam2.data.frame_source import Frame
from fastsam2.data.pyav import Colorspace, VideoReformatter

__all__ = ["PictureConverter"]


class PictureConverter:
    """Turns FFmpeg's pictures into frames, uint8 `[H, W, 3]`, the way up that players show them.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # of our own: a new one for each frame is slow

    def __call__(self, picture: Any) -> Frame:
        # RGB has no colour matrix, but PyAV before 17 heeds the source's only if asked for one.
        rgb: Any = self._reformatter.reformat(
            picture, format="rgb24", dst_colorspace=Colorspace.ITU601
        ).to_ndarray()
        turns = round(picture.rotation / 90) % 4  # counterclockwise
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
