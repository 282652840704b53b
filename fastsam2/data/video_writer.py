"""Frames into an mp4 file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastsam2.data.files import part_path
from fastsam2.data.frame_source import Frame, check_array
from fastsam2.data.pyav import Colorspace, VideoReformatter, av
from fastsam2.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OverlayVideoWriter"]

_BT709 = 1  # of FFmpeg's enumerations of matrices, primaries and transfer functions
_LIMITED_RANGE = 1
_CODECS = ("libx264", "libopenh264", "h264")


class OverlayVideoWriter:
    """Writes RGB frames, in the order given, as H.264 in an mp4 file that any player shows.

    The file takes its name on `close()`, which leaving the `with` block calls even after an error:
    then it holds the frames written so far. Without a frame there is no file. An odd width or
    height is padded by one pixel, as 4:2:0 chroma needs even ones.

    Args:
        path: the file; one that is there is replaced.
        fps: frames per second.
        size: (height, width) of the frames, in pixels.

    Raises:
        InputError: a frame rate that is none, or a frame of another size.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        if not 0 < fps < 1000:
            raise InputError(f"cannot write a video of {fps} frames per second")
        self.path = Path(path)
        self.size = size
        self._part = part_path(self.path)
        self._next = 0  # the time of the next frame, in frames
        self._reformatter = VideoReformatter()
        self._container: Any = av.open(str(self._part), "w", format="mp4")
        # 29.97 is 30000/1001: of all rates in use, the denominator is at most that.
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
        """Appends an RGB frame, uint8 `[H, W, 3]`.

        Args:
            frame: the pixels.
            time: when it is shown, in seconds from the first frame, later than the one before;
                None for one frame's duration after it.
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
        if time is not None:  # frames may be missing, but none can share its time
            self._next = max(self._next, round(time * self._rate))
        picture.pts = self._next
        self._next += 1
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        """Completes the file. May be called twice."""
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _codec() -> str:
    return next((name for name in _CODECS if name in av.codecs_available), "mpeg4")
