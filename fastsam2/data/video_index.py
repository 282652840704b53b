"""Index of the frames of a video file, read from its packets without decoding."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastsam2.data.pyav import Disposition, av

__all__ = ["VideoIndex", "packets_of", "video_stream"]


def video_stream(container: Any) -> Any | None:
    """Return the first video stream of an open container, ignoring cover pictures; None if none."""
    for stream in container.streams.video:
        # FFmpeg also opens text files, rendered as pictures of a terminal.
        codec = stream.codec_context
        is_text = codec is not None and codec.name == "ansi"
        if not is_text and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream that hold data.

    Raises:
        av.FFmpegError: the file cannot be read any further.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except IndexError:  # raised by PyAV for a stream that begins in the middle of the file
        raise av.error.InvalidDataError(0, "a stream begins in the middle of the file") from None


# Broadcast formats: recordings may begin in the middle of a group of pictures.
_CUT_ANYWHERE = frozenset({"mpegts", "mpeg"})

_AVI = "avi"
_MICROSECONDS = 1_000_000  # unit of a container's duration


@dataclass
class VideoIndex:
    """Frames of one video stream in presentation order.

    Attributes:
        times: presentation time of each frame, in the stream's time base, ascending; empty for raw
            streams, whose packets have no timestamps.
        key_times: presentation time of each frame from which decoding can start, ascending.
        missing: number of frames stated by the header but not in the file, which is truncated.
        fps: frames per second; None if unknown.
    """

    times: list[int]
    key_times: list[int]
    missing: int
    fps: float | None
    _positions: dict[int, int] = field(init=False, repr=False)
    _keys: frozenset[int | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._keys = frozenset(self.key_times)
        self._positions = {time: position for position, time in enumerate(self.times)}

    @classmethod
    def read(cls, container: Any, stream: Any) -> VideoIndex:
        """Read all packets of the container, leaving it at its end."""
        times: list[int | None] = []
        key_times: list[int | None] = []
        packets, end = 0, 0
        may_start_anywhere = container.format.name in _CUT_ANYWHERE
        broken = False
        try:
            for packet in packets_of(container, stream):
                packets += 1
                # In a file with a header, the first packet is a key frame, even if it is damaged.
                if packet.is_keyframe or (packets == 1 and not may_start_anywhere):
                    key_times.append(packet.pts)
                if packet.is_discard or not key_times:
                    continue
                times.append(packet.pts)
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
        except av.FFmpegError:
            broken = True

        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else None
        known = sorted(time for time in times if time is not None)
        # AVI stores no presentation times; FFmpeg's are wrong if frames are reordered.
        guessed = container.format.name == _AVI and stream.codec_context.has_b_frames
        if guessed or len(set(known)) < len(times):
            return cls([], [], 0, fps)
        keys = sorted(time for time in key_times if time is not None)
        # Frames of a GIF build on the one before, whatever their flags say.
        keys = keys[:1] if stream.codec_context.name == "gif" else keys
        gap = _stated_end(container, stream) - end
        missing = _missing(stream, known, packets, gap, fps)
        return cls(known, keys, max(missing, int(broken)), fps)

    def __len__(self) -> int:
        return len(self.times) + self.missing

    def position(self, time: int | None) -> int | None:
        """Return the frame shown at `time`; None if there is none."""
        return None if time is None else self._positions.get(time)

    def key_time(self, position: int) -> int:
        """Return the time of the key frame from which to decode the frame at `position`."""
        if position >= len(self.times):
            position = len(self.times) - 1
        found = bisect.bisect_right(self.key_times, self.times[position]) - 1
        return self.key_times[max(found, 0)]

    def is_key(self, time: int | None) -> bool:
        """True if decoding can start from the packet shown at `time`."""
        return time in self._keys

    def drop_first(self) -> None:
        """Remove the first frame."""
        self.times.pop(0)
        self.__post_init__()


def _missing(stream: Any, times: list[int], packets: int, gap: float, fps: float | None) -> int:
    """Number of frames missing at the end, where `gap` is the time that the header states beyond
    the last frame.

    A number of frames in the header is not enough: it includes frames that an edit list leaves out,
    and empty frames of AVI.
    """
    if fps is None or not times:
        return 0
    if stream.frames:
        return stream.frames - packets if gap * float(stream.time_base) * fps > 0.5 else 0
    # Stated durations are inexact, and a still picture may be shown for long.
    longest_gap = max((b - a for a, b in itertools.pairwise(times)), default=0)
    if gap <= 2 * longest_gap or gap * float(stream.time_base) < 0.5:
        return 0
    return round(gap * float(stream.time_base) * fps)


def _stated_end(container: Any, stream: Any) -> float:
    """Time at which the header says the stream ends, in its time base; -inf if it does not.

    Durations are taken as ends: they are ends in some containers, and never later than the end.
    """
    if stream.duration is not None:
        return float(stream.duration)
    # Matroska's tag may have been copied from another file.
    tag = _duration_tag(stream)
    if tag is None or container.duration is None:
        return -math.inf
    return min(tag, container.duration / _MICROSECONDS / float(stream.time_base))


def _duration_tag(stream: Any) -> int | None:
    """Duration from Matroska's DURATION tag (`hh:mm:ss.fraction`), in the stream's time base."""
    tags = {name.upper(): value for name, value in stream.metadata.items()}
    try:
        hours, minutes, seconds = tags["DURATION"].split(":")
        duration = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None
    return int(duration / float(stream.time_base))
