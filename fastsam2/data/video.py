"""Frames of a video file, decoded by FFmpeg (PyAV) when they are asked for."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastsam2.data.cache import FrameCache
from fastsam2.data.frame_source import DEFAULT_CACHE_BYTES, Frame, FrameSource
from fastsam2.data.picture import PictureConverter
from fastsam2.data.pyav import av
from fastsam2.data.video_index import VideoIndex, packets_of, video_stream
from fastsam2.errors import VideoError

__all__ = ["VideoSource"]


# How carefully to decode. Several threads are fast, but do not tell which packet failed. And if a
# missing reference is an error, decoding from a key frame fails for open groups of pictures in
# H.264, which list references before their key frame without using them: so begin earlier.
_FAST, _ONE_THREAD, _RUN_UP = range(3)
_RUN_UP_FRAMES = 32


# FFmpeg's threads, one a frame, wait for each other for ever over damaged files in these codecs.
_HANGS_BY_FRAME = frozenset({"hevc", "vvc"})


class _RetryError(Exception):
    """A packet failed: decode again, knowing more."""


class VideoSource(FrameSource):
    """Frames of an mp4, mov, webm, mkv, avi or gif file, given as a path or as its bytes.

    Opening reads the packets' times but decodes one frame only. Reading on from the last frame
    never seeks; any other frame is reached from the key frame before it. Going backward, the frames
    on the way are cached, so that a group of pictures is decoded once (once per `cache_bytes`).
    Rotation metadata is applied, as players do.

    A damaged frame makes those unreadable, too, that may depend on it, up to the next key frame:
    FFmpeg would conceal the damage, and return a picture that is silently wrong.

    Raises:
        VideoError: no file, no video in it, or a first frame that cannot be decoded.
    """

    def __init__(
        self, file: Path | bytes, name: str | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        super().__init__(name or (str(file) if isinstance(file, Path) else "the video"))
        self._file = file
        self._care = _FAST
        self._container: Any = None
        self._bad: set[tuple[int | None, ...]] = (
            set()
        )  # packets that fail, by their times and place
        self._damaged: dict[int, int] = {}  # unreadable frame: the frame that is to blame
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._next = 0  # the position that `_frames` yields next
        self._start: int | None = None  # the key time from which `_frames` began
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

    def __len__(self) -> int:
        return self._length

    def _open(self) -> None:
        if self._container is not None:
            self._container.close()
        try:
            opened = io.BytesIO(self._file) if isinstance(self._file, bytes) else str(self._file)
            self._container = av.open(opened)
            stream = video_stream(self._container)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(
                f"cannot read {self.name} as a video: it is cut short, damaged, or something else "
                f"({_reason(error)})"
            ) from error
        if stream is None:
            has = "audio but no video" if self._container.streams.audio else "no video"
            raise VideoError(f"{self.name} holds {has}")
        if stream.codec_context is None:
            raise VideoError(f"{self.name} is cut short, or in a codec that FFmpeg does not know")
        by_frame = stream.codec_context.name not in _HANGS_BY_FRAME
        stream.thread_type = ("AUTO" if by_frame else "SLICE") if self._care == _FAST else "NONE"
        stream.codec_context.thread_count = 0 if self._care == _FAST else 1
        stream.codec_context.options = {"err_detect": "explode"}
        self._stream = stream

    def _count_frames(self) -> None:
        """Decodes all of a stream whose packets carry no times, to learn how many frames it has."""
        self._care = _RUN_UP
        while True:
            try:
                count = sum(1 for _ in self._decoded(None))
            except _RetryError:
                continue
            self._length = count + len(self._damaged)
            return

    def _find_first_frame(self) -> None:
        """Decodes frame 0, without leading frames that lean on what lies before the file."""
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
            cached = self._decode_up_to(frame_idx, keep)
        self._last = frame_idx
        return cached

    def _decode_up_to(self, frame_idx: int, keep: int = 1) -> Frame:
        """Frame `frame_idx`; it and the `keep - 1` frames before it go into the cache."""
        if self._index.times and frame_idx >= len(self._index.times):
            raise VideoError(
                f"frame {frame_idx} of {self.name} is missing: the file is cut short after "
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
                        with suppress(VideoError):  # of another size: for whoever asks for it
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
        """Makes `_frames` go through `frame_idx`: on from where it is, or from a key frame."""
        key_time = self._index.key_time(frame_idx) if self._index.times else None
        key = self._index.position(key_time) or 0
        if self._start is None or not key <= self._next <= frame_idx:
            self._frames, self._next, self._start = self._decoded(key_time), key, key_time or 0

    def _packets(self, key_time: int | None) -> Iterator[Any]:
        """Packets in decoding order, from the key frame shown at `key_time` (None: any) on."""
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
        # Where the file breaks off is known from the index; the frames beyond it are missing.
        with suppress(av.FFmpegError):
            yield from packets_of(self._container, self._stream)

    def _rewind(self, key_time: int | None) -> None:
        if key_time is not None and key_time != self._index.key_times[0]:
            try:
                self._container.seek(key_time, stream=self._stream)
                return
            except av.FFmpegError:
                pass
        self._open()

    def _decoded(self, key_time: int | None) -> Iterator[tuple[int, Any]]:
        """(position, picture) in the order shown, leaving out damaged ones, which it notes."""
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
            # What is shown before then leans on pictures that were damaged or not decoded.
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
                # What the decoder still holds comes out first: a failure can lose it.
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
        self._container.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
