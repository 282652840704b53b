"""Convert FFmpeg's decoded pictures to RGB frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsam2.data.frame_source import Frame
from fastsam2.data.pyav import Colorspace, VideoReformatter

__all__ = ["PictureConverter"]


class PictureConverter:
    """Converts FFmpeg's pictures to frames, uint8 `[H, W, 3]`, and applies their rotation.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # reused: creating one per frame is slow

    def __call__(self, picture: Any) -> Frame:
        # RGB has no colour matrix, but PyAV before 17 ignores the source's unless one is given.
        rgb: Any = self._reformatter.reformat(
            picture, format="rgb24", dst_colorspace=Colorspace.ITU601
        ).to_ndarray()
        turns = round(picture.rotation / 90) % 4  # counterclockwise
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
