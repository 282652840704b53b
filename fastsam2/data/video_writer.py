"""Write frames to an mp4 file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fastsam2.data.closing import Closing
from fastsam2.data.files import part_path
from fastsam2.data.frame_source import Frame, check_array
from fastsam2.data.pyav import Colorspace, VideoReformatter, av
from fastsam2.errors import InputError

__all__ = ["OverlayVideoWriter"]

_BT709 = 1  # in FFmpeg's enumerations of matrices, primaries and transfer functions
_LIMITED_RANGE = 1
_CODECS = ("libx264", "libopenh264", "h264")


class OverlayVideoWriter(Closing):
    """Writes RGB frames as H.264 to an mp4 file that common players support.

    The file gets its final name on `close()`, which the `with` block calls even after an error;
    it then holds the frames written so far. Without frames no file is created. An odd width or
    height is padded by one pixel, because 4:2:0 chroma requires even sizes.

    Args:
        path: output file; an existing one is replaced.
        fps: frames per second, above 0 and below 1000.
        size: (height, width) of the frames, in pixels.

    Raises:
        InputError: invalid frame rate, or a frame of another size.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        if not 0 < fps < 1000:
            raise InputError(f"cannot write a video of {fps} frames per second")
        self.path = Path(path)
        self.size = size
        self._part = part_path(self.path)
        self._next = 0  # time of the next frame, in units of 1 / fps
        self._reformatter = VideoReformatter()
        self._container: Any = av.open(str(self._part), "w", format="mp4")
        # No rate in use has a larger denominator: 29.97 is 30000/1001.
        self._rate = Fraction(fps).limit_denominator(1001)
        options = {"crf": "20", "preset": "veryfast"}
        stream: Any = self._container.add_stream(_codec(), rate=self._rate, options=options)
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self._stream = stream

    def write(self, frame: Frame, time: float | None = None) -> None:
        """Append a frame.

        Args:
            frame: RGB, uint8 `[H, W, 3]`.
            time: presentation time in seconds since the first frame, ascending; None for one frame
                duration after the previous frame.
        """
        frame = check_array(frame, "the frame", ndim=3)
        if frame.shape[:2] != tuple(self.size):
            raise InputError(
                f"a frame of {list(frame.shape[:2])} in a video of {list(self.size)} pixels"
            )
        pad = [(0, side % 2) for side in self.size]
        even = np.pad(frame, [*pad, (0, 0)], mode="edge") if any(p[1] for p in pad) else frame
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
        )
        if time is not None:  # gaps are allowed; times must be distinct
            self._next = max(self._next, round(time * self._rate))
        picture.pts = self._next
        self._next += 1
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        """Complete the file. May be called repeatedly."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._next:
                for packet in self._stream.encode():
                    container.mux(packet)
            container.close()
            if self._next:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


def _codec() -> str:
    return next((name for name in _CODECS if name in av.codecs_available), "mpeg4")
