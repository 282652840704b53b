"""Frame source for video files, decoded on access by FFmpeg (PyAV)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastsam2.data.cache import FrameCache
from fastsam2.data.frame_source import DEFAULT_CACHE_BYTES, Frame, FrameSource
from fastsam2.data.held import OpenFile
from fastsam2.data.picture import PictureConverter
from fastsam2.data.pyav import av, av_reason
from fastsam2.data.video_index import VideoIndex, packets_of, video_stream
from fastsam2.errors import VideoError
from fastsam2.processes import leak

__all__ = ["VideoSource"]

# Levels of care. Multithreaded decoding is fast but does not report which packet failed. With
# missing references as errors, decoding from a key frame fails for open groups of pictures in
# H.264, which list references before their key frame without using them; the last level therefore
# starts `_RUN_UP_FRAMES` earlier.
_FAST, _ONE_THREAD, _RUN_UP = range(3)
_RUN_UP_FRAMES = 32

# FFmpeg's frame threads deadlock on damaged files in these codecs.
_HANGS_BY_FRAME = frozenset({"hevc", "vvc"})


class _RetryError(Exception):
    """A packet failed; decode again, skipping it or with more care."""


class VideoSource(FrameSource):
    """Frames of an mp4, mov, webm, mkv, avi or gif file, given as a path or as its bytes.

    Opening reads the times of all packets but decodes one frame only. Reading forward from the last
    frame never seeks; any other frame is decoded from the key frame before it. When reading
    backward, the frames decoded on the way are cached, so that each group of pictures is decoded
    once (once per `cache_bytes`). Rotation metadata is applied, as players do.

    Frames that may depend on a damaged one, up to the next key frame, are unreadable as well:
    FFmpeg would conceal the damage and return wrong pictures without an error.

    The file is kept open, so it may be deleted or replaced; reading it after it has been written to
    raises VideoError.

    Args:
        file: path of the file, or its content.
        name: name in messages; by default the path.
        cache_bytes: bound on the cache of decoded frames; it holds at least one.

    Raises:
        VideoError: no file, no video in it, or a first frame that cannot be decoded.
    """

    def __init__(
        self, file: Path | bytes, name: str | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        super().__init__(name or (str(file) if isinstance(file, Path) else "the video"))
        self._file = self._kept_open(file)
        self._care = _FAST
        self._container: Any = None
        self._stream: Any = None
        self._bad: set[tuple[int | None, ...]] = set()  # failing packets: (pts, dts, file offset)
        self._damaged: dict[int, int] = {}  # unreadable frame: the damaged frame it depends on
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._next = 0  # position of the next item of `_frames`
        self._start: int | None = None  # key time at which `_frames` began
        self._last = 0
        self._convert = PictureConverter()
        self._cache_bytes = cache_bytes
        self._cache: FrameCache[Frame] | None = None

        self._open()
        self._index = VideoIndex.read(self._container, self._stream)
        self.fps = self._index.fps
        self._length = len(self._index)
        if not self._index.times:
            self._count_frames()
        self._find_first_frame()

    def __reduce__(self) -> tuple[type[VideoSource], tuple[bytes, str, int]]:
        # With the content, as the file need not be there when the pickle is read.
        content = self._file
        if isinstance(content, OpenFile):
            content.check()
            content = content.reader().read()
        return VideoSource, (content, self.name, self._cache_bytes)

    def __len__(self) -> int:
        return self._length

    def _kept_open(self, file: Path | bytes) -> OpenFile | bytes:
        try:
            return file if isinstance(file, bytes) else OpenFile(file)
        except OSError as error:
            raise VideoError(f"cannot read {self.name}: {error.strerror}") from error

    def _open(self) -> None:
        if self._container is not None:
            if self._stream is not None:
                # PyAV 17 would wait for its threads, and they for the interpreter.
                self._stream.codec_context.flush_buffers()
            self._container.close()
        try:
            file = self._file
            self._container = av.open(
                io.BytesIO(file) if isinstance(file, bytes) else file.reader()
            )
            stream = video_stream(self._container)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(
                f"cannot read {self.name} as a video: it is truncated, damaged or not a video "
                f"({av_reason(error)})"
            ) from error
        if stream is None:
            found = "audio but no video" if self._container.streams.audio else "no video"
            raise VideoError(f"{self.name} holds {found}")
        if stream.codec_context is None:
            raise VideoError(f"{self.name} is truncated, or FFmpeg does not support its codec")
        by_frame = stream.codec_context.name not in _HANGS_BY_FRAME
        stream.thread_type = ("AUTO" if by_frame else "SLICE") if self._care == _FAST else "NONE"
        stream.codec_context.thread_count = 0 if self._care == _FAST else 1
        stream.codec_context.options = {"err_detect": "explode"}
        self._stream = stream

    def renew(self) -> None:
        """Start over with a decoder of its own, in a forked process."""
        super().renew()
        leak((self._container, self._frames, self._convert))
        self._container, self._frames, self._start = None, iter(()), None
        self._convert = PictureConverter()

    def _count_frames(self) -> None:
        """Count the frames of a stream without timestamps by decoding all of it."""
        self._care = _RUN_UP
        while True:
            try:
                count = sum(1 for _ in self._decoded(None))
            except _RetryError:
                continue
            self._length = count + len(self._damaged)
            return

    def _find_first_frame(self) -> None:
        """Decode frame 0; drop leading frames that depend on pictures before the file."""
        if self._length == 0:
            raise VideoError(f"{self.name} has no frames")
        index = self._index
        while True:
            try:
                self._decode_up_to(0)
                return
            except VideoError:
                if not index.times or index.times[0] >= index.key_times[0]:
                    raise
            index.drop_first()
            self._length = len(index)
            self._damaged.clear()
            self._bad.clear()
            self._cache = None
            self._care = _FAST

    def _read(self, frame_idx: int) -> Frame:
        cached = self._cache.get(frame_idx) if self._cache else None
        if cached is None:
            backward = frame_idx < self._last
            keep = self._cache.capacity if self._cache and backward else 1
            try:
                cached = self._decode_up_to(frame_idx, keep)
            finally:
                # Before any error, since the decoder reports changed packets as damage.
                if isinstance(self._file, OpenFile):
                    self._file.check(frame_idx)
        self._last = frame_idx
        return cached

    def _decode_up_to(self, frame_idx: int, keep: int = 1) -> Frame:
        """Decode frame `frame_idx`; cache it and the `keep - 1` frames before it."""
        if self._index.times and frame_idx >= len(self._index.times):
            raise VideoError(
                f"frame {frame_idx} of {self.name} is missing: the file is truncated after "
                f"{len(self._index.times)} of {self._length} frames",
                frame_idx,
            )
        while self._care != _RUN_UP or frame_idx not in self._damaged:
            try:
                self._seek(frame_idx)
                for position, picture in self._frames:
                    self._next = position + 1
                    if position == frame_idx:
                        return self._stored(position, picture)
                    if position > frame_idx:
                        break
                    if position > frame_idx - keep:
                        with suppress(VideoError):  # another size: raised when it is accessed
                            self._stored(position, picture)
                failed = False
            except _RetryError:
                failed = True
            self._start = None
            if self._care != _RUN_UP:
                self._care += 1
                self._damaged.clear()
                self._bad.clear()
                self._open()
            elif not failed:
                self._damaged.setdefault(frame_idx, frame_idx)
        cause = self._damaged[frame_idx]
        if cause != frame_idx:
            raise VideoError(
                f"frame {frame_idx} of {self.name} depends on frame {cause}, which is damaged",
                frame_idx,
            )
        raise VideoError(
            f"frame {frame_idx} of {self.name} is damaged and cannot be decoded", frame_idx
        )

    def _seek(self, frame_idx: int) -> None:
        """Make `_frames` reach `frame_idx`: continue, or restart from a key frame."""
        key_time = self._index.key_time(frame_idx) if self._index.times else None
        key = self._index.position(key_time) or 0
        if self._start is None or not key <= self._next <= frame_idx:
            self._frames, self._next, self._start = self._decoded(key_time), key, key_time or 0

    def _packets(self, key_time: int | None) -> Iterator[Any]:
        """Packets in decoding order, starting at the key frame shown at `key_time` (None: any)."""
        self._rewind(key_time)
        found = key_time is None
        for packet in self._demuxed():
            if not found and packet.is_keyframe and packet.pts > (key_time or 0):
                break  # the container's own index is wrong
            found = found or packet.pts == key_time
            if found:
                yield packet
        if found:
            return
        self._open()
        for packet in self._demuxed():
            found = found or packet.pts == key_time
            if found:
                yield packet

    def _demuxed(self) -> Iterator[Any]:
        # The index already holds the end of a truncated file; frames beyond it are missing.
        with suppress(av.FFmpegError):
            yield from packets_of(self._container, self._stream)

    def _rewind(self, key_time: int | None) -> None:
        later = key_time is not None and key_time != self._index.key_times[0]
        if later and self._container is not None:
            try:
                self._container.seek(key_time, stream=self._stream)
                return
            except av.FFmpegError:
                pass
        self._open()

    def _decoded(self, key_time: int | None) -> Iterator[tuple[int, Any]]:
        """Yield (position, picture) in presentation order; record damaged frames and skip them."""
        index, count = self._index, 0
        begin, clean_from = key_time, -math.inf
        if key_time is not None and key_time != index.key_times[0]:
            clean_from = key_time
            if self._care == _RUN_UP:
                begin = index.key_time(max(0, (index.position(key_time) or 0) - _RUN_UP_FRAMES))
        first = clean_from
        cause: int | None = None
        for packet in self._packets(begin):
            position = index.position(packet.pts) if index.times else count
            shown = -math.inf if packet.pts is None else packet.pts
            if clean_from == math.inf and index.is_key(packet.pts):
                clean_from = shown
            # Pictures shown before `clean_from` may depend on damaged or skipped ones.
            trusted = shown >= clean_from
            if not trusted:
                if cause is None and self._care != _RUN_UP:
                    continue
                if cause is not None and position is not None:
                    self._damaged.setdefault(position, cause)
            tag = packet.pts, packet.dts, packet.pos
            if tag in self._bad and trusted:
                cause = self._next if position is None else position
                if index.times and shown < index.key_times[0]:
                    self._damaged[cause] = cause
                    continue
                # Flush the decoder first: a failure can lose the pictures it still holds.
                for picture in self._flushed():
                    yield from self._placed(picture, count, first)
                    count += 1
                self._stream.codec_context.flush_buffers()
                if not index.times:
                    self._damaged[count] = count
                    return
                if position is not None:
                    self._damaged[position] = position
                clean_from = math.inf
                continue
            try:
                pictures = self._decode(packet)
            except av.FFmpegError as error:
                if trusted or self._care == _FAST:
                    self._bad.add(tag)
                    raise _RetryError from error
                continue
            for picture in pictures:
                yield from self._placed(picture, count, first)
                count += 1
        for picture in self._flushed():
            yield from self._placed(picture, count, first)
            count += 1

    @staticmethod
    def _decode(packet: Any) -> list[Any]:
        if packet.is_corrupt:
            raise av.error.InvalidDataError(0, "the container marks this packet as corrupt")
        return list(packet.decode())

    def _flushed(self) -> list[Any]:
        try:
            return list(self._stream.codec_context.decode(None))
        except av.FFmpegError as error:
            if self._care == _FAST:
                raise _RetryError from error
            return []

    def _placed(self, picture: Any, count: int, first: float) -> Iterator[tuple[int, Any]]:
        position = self._index.position(picture.pts) if self._index.times else count
        if position is None or position in self._damaged:
            return
        if picture.pts is not None and picture.pts < first:
            return
        if picture.is_corrupt:
            self._damaged[position] = position
            return
        yield position, picture

    def _stored(self, position: int, picture: Any) -> Frame:
        frame = self._convert(picture)
        if self._cache is None:
            self.height, self.width = frame.shape[:2]
            self._cache = FrameCache(self._cache_bytes, frame.nbytes)
        self._check_size(position, *frame.shape[:2])
        self._cache.put(position, frame)
        return frame

    def _release(self) -> None:
        self._frames = iter(())
        self._cache = None
        if self._container is not None:
            self._container.close()
        if isinstance(self._file, OpenFile):
            self._file.close()
