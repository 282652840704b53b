"""Live inputs: cameras, network streams, pipes, files and iterators.

One thread opens an input and iterates over its `frames()` once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastsam2.data.frame_source import Frame, check_array
from fastsam2.data.picture import PictureConverter
from fastsam2.data.pyav import av, av_reason
from fastsam2.data.video_index import packets_of, video_stream
from fastsam2.errors import InputError, VideoError

__all__ = ["ContainerInput", "IterableInput", "LiveFrame", "LiveInput", "is_live", "open_input"]

CAMERA = "camera:"
STDIN = "-"

# platform: FFmpeg device, file name pattern of a camera, options
_CAMERAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),  # few cameras support its default
    "win32": ("dshow", "video={}", {}),
}
_CAMERA_PAUSE = 0.005  # seconds to wait if a camera has no frame yet


class LiveFrame(NamedTuple):
    """Time in seconds since the first frame, and the frame, uint8 RGB `[H, W, 3]`."""

    time: float
    image: Frame


class LiveInput(Protocol):
    """Input that a reader thread opens and reads."""

    name: str
    fps: float | None  #: frames per second, known from the first frame on; None if unknown
    damaged: int  #: number of frames that could not be decoded so far
    waits: bool  #: True if the sender waits for its reader; a camera does not
    recorded: bool  #: True if frames arrive as fast as they are read; valid from the first frame on

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Open the input, yield its frames, close it."""


def is_live(name: str) -> bool:
    """True if the name is that of a live source: a camera, a URL, or `-`."""
    return name == STDIN or name.startswith(CAMERA) or "://" in name


def open_input(source: Any, timeout: float) -> LiveInput:
    """Return the input for a source of `LiveSource`; its `frames()` opens it.

    Raises:
        InputError: `camera:` without a camera.
        VideoError: no such file, or an object that holds no frames.
    """
    if isinstance(source, str) and is_live(source):
        if source == STDIN:
            # Unbuffered: a thread blocked in a buffered reader would keep Python from exiting.
            stdin = sys.stdin.buffer
            return ContainerInput(_Pipe(getattr(stdin, "raw", stdin)), "stdin", waits=True)
        if source.startswith(CAMERA):
            return _camera(source, timeout)
        options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
        return ContainerInput(source, source, timeout=timeout, options=options)
    if isinstance(source, (str, Path)):
        if not Path(source).is_file():
            kind = "not a file" if Path(source).exists() else "no such file"
            raise VideoError(f"{kind}: {source}")
        return ContainerInput(str(source), str(source), waits=True)
    if hasattr(source, "read"):
        return ContainerInput(_Pipe(source), "the pipe", waits=True)
    if isinstance(source, Iterable):
        return IterableInput(source)
    raise VideoError(f"cannot read live frames from an object of type {type(source).__name__}")


def _camera(source: str, timeout: float) -> ContainerInput:
    which = source.removeprefix(CAMERA)
    if not which:
        raise InputError(f"{source} does not name a camera: the first one is {CAMERA}0")
    device, pattern, options = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
    file = which if which.startswith("/") else pattern.format(which)
    return ContainerInput(file, source, format=device, timeout=timeout, options=options)


class _Pipe:
    """Binary file that FFmpeg can only read: it cannot seek in it or close it."""

    def __init__(self, file: Any) -> None:
        # `read` of a buffered reader blocks until it has all bytes requested.
        self.read = getattr(file, "read1", file.read)


class ContainerInput:
    """Input opened by FFmpeg: a file, a URL, a device, or a `_Pipe`.

    A frame that cannot be decoded is counted and skipped. Frames that depend on it are shown with
    FFmpeg's error concealment, as in players: the next key frame may be many seconds away.
    """

    def __init__(
        self,
        file: Any,
        name: str,
        *,
        format: str | None = None,
        timeout: float | None = None,
        options: dict[str, str] | None = None,
        waits: bool = False,
    ) -> None:
        self.name = name
        self.fps: float | None = None
        self.damaged = 0
        self.waits = waits
        self.recorded = False
        self._file = file
        self._arguments: dict[str, Any] = {
            "format": format,
            "timeout": timeout,
            "options": options or {},
        }

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield frames as they are decoded.

        Raises:
            VideoError: the input cannot be opened, holds no video, or breaks off.
        """
        try:
            container = av.open(self._file, **self._arguments)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(f"cannot open {self.name}: {av_reason(error)}") from None
        with container:
            stream = video_stream(container)
            if stream is None or stream.codec_context is None:
                raise VideoError(f"{self.name} holds no video that FFmpeg can decode")
            # Frame threads would delay the output by one frame per thread.
            stream.thread_type = "SLICE"
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
            self.recorded = bool(container.duration)  # unknown for a live source
            yield from self._timed(self._pictures(container, stream), stream.time_base)

    def _timed(self, pictures: Iterator[Any], time_base: Any) -> Iterator[LiveFrame]:
        convert, first, begin = PictureConverter(), None, time.monotonic()
        for count, picture in enumerate(pictures):
            if picture.pts is not None:  # `picture.time` lacks a time base on flushed frames
                shown = float(picture.pts * time_base)
            else:  # a raw stream
                shown = count / self.fps if self.fps else time.monotonic() - begin
            first = shown if first is None else first
            yield LiveFrame(shown - first, convert(picture))

    def _pictures(self, container: Any, stream: Any) -> Iterator[Any]:
        count, lost = 0, None
        packets = self._packets(container, stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError, ValueError) as error:
                packet, lost = None, error
            for picture in self._decoded(stream.codec_context, packet):
                count += 1
                yield picture
            if packet is None:
                break
        if lost is not None:
            raise VideoError(
                f"{self.name} broke off after {count} frames: {av_reason(lost)}", count
            )

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        while True:
            try:
                yield from packets_of(container, stream)
                return
            except av.error.BlockingIOError:
                time.sleep(_CAMERA_PAUSE)

    def _decoded(self, codec: Any, packet: Any) -> Iterator[Any]:
        """Decode a packet into pictures; None flushes the decoder."""
        try:
            pictures = codec.decode(packet)
        except av.FFmpegError:
            self.damaged += 1
            return
        for picture in pictures:
            if picture.is_corrupt:
                self.damaged += 1
            else:
                yield picture


class IterableInput:
    """Iterator of frames, uint8 `[H, W, 3]`; a frame's time is that of its arrival."""

    fps: float | None = None
    damaged = 0
    waits = True
    recorded = False

    def __init__(self, frames: Iterable[Any], name: str = "the iterator of frames") -> None:
        self.name = name
        self._frames = frames

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield the frames; raises VideoError for an item that is not a frame."""
        begin = None
        try:
            for index, array in enumerate(self._frames):
                now = time.monotonic()
                begin = now if begin is None else begin
                frame = check_array(array, f"frame {index}", ndim=3, frame_idx=index)
                yield LiveFrame(now - begin, frame)
        finally:
            if isinstance(self._frames, Generator):
                self._frames.close()
