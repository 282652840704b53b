"""Live frame sources without a known end: cameras, network streams, pipes."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from fastsam2.data.closing import Closing
from fastsam2.data.frame_source import check_size
from fastsam2.data.live_inputs import LiveFrame, LiveInput, is_live, open_input
from fastsam2.errors import InputError, VideoError
from fastsam2.processes import renew_in_child

__all__ = ["LiveFrame", "LiveSource", "is_live"]

_DROP, _QUEUE = _POLICIES = ("drop", "queue")


class LiveSource(Closing, Iterator[LiveFrame]):
    """Iterator of `(time, image)`: seconds since the first frame, and uint8 RGB `[H, W, 3]`.

    A thread reads and decodes. The policy applies to frames that arrive faster than they are
    consumed:

    - `"drop"`: keep only the newest frame, so that the consumer never lags. Default for cameras and
      network streams. A source of known duration is played at its own speed.
    - `"queue"`: keep every frame. If `queue_size` frames are waiting, reading blocks, and so does
      the sender, if it can. Default for all other sources.

    A frame that cannot be decoded is skipped and counted; any other error is raised by the iterator
    after the frames read before it. Rotation metadata is applied, as players do. The thread ends
    with the `with` block, with `close()`, or when the source is garbage-collected.

    Args:
        source: `camera:0` (also `camera:/dev/video0`, or a camera's name on macOS and Windows), a
            URL (`rtsp://`, `http://`, `udp://` ...), `-` for stdin, a video file, a binary file
            object that is read without seeking, or an iterable of uint8 arrays `[H, W, 3]`.
        policy: `"drop"` or `"queue"`; None for the source's default.
        queue_size: maximum number of waiting frames, `3 * H * W` bytes each.
        timeout: seconds without data after which a camera or network stream counts as lost.

    Attributes:
        height, width: size of the frames, in pixels.
        fps: frames per second stated by the source; None if unknown.

    Raises:
        InputError: unknown policy, or `queue_size` below 1.
        VideoError: the source cannot be opened, has no frames, or breaks off. The constructor waits
            for the first frame.
    """

    def __init__(
        self,
        source: Any,
        policy: str | None = None,
        *,
        queue_size: int = 8,
        timeout: float = 10.0,
    ) -> None:
        if policy not in (None, *_POLICIES):
            raise InputError(f"unknown policy {policy!r}: choose one of {', '.join(_POLICIES)}")
        if queue_size < 1:
            raise InputError(f"queue_size must be at least 1, but is {queue_size}")
        self._input = open_input(source, timeout)
        self.policy = policy or (_QUEUE if self._input.waits else _DROP)
        self._handover = _Handover(1 if self.policy == _DROP else queue_size, self.policy == _DROP)
        # The thread refers to the handover only, so the source can be freed while it runs.
        self._finalizer = weakref.finalize(self, _Handover.close, self._handover)
        arguments = self._input, self._handover
        threading.Thread(target=_read, args=arguments, name="fastsam2-live", daemon=True).start()
        try:
            first = self._handover.first()
            if first is None:
                raise VideoError(f"{self.name} has no frames")
            self.height, self.width = first.image.shape[:2]
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Name of the source in messages."""
        return self._input.name

    @property
    def fps(self) -> float | None:
        return self._input.fps

    @property
    def dropped(self) -> int:
        """Number of frames dropped for newer ones since the first frame was taken."""
        return self._handover.dropped

    @property
    def damaged(self) -> int:
        """Number of frames that could not be decoded."""
        return self._input.damaged

    def __next__(self) -> LiveFrame:
        frame = self._handover.take()
        if frame is None:
            raise StopIteration
        return frame

    def close(self) -> None:
        """End the stream; the iterator stops. May be called repeatedly and from any thread.

        Does not wait for the reader thread, which may be blocked in a read.
        """
        self._finalizer()


def _read(source: LiveInput, handover: _Handover) -> None:
    """Read until the source ends or the handover is closed. Runs in a thread."""
    begin, size = time.monotonic(), None
    try:
        with closing(source.frames()) as frames:
            for index, frame in enumerate(frames):
                begin = time.monotonic() if index == 0 else begin
                size = size or frame.image.shape[:2]
                check_size(source.name, index, frame.image.shape[:2], size)
                if handover.newest_only and source.recorded:
                    handover.pause(begin + frame.time - time.monotonic())
                if not handover.put(frame):
                    return
        handover.end(None)
    except Exception as error:  # any error: the consumer must not wait for this thread forever
        handover.end(error)


class _Handover:
    """Bounded queue between the reader thread and the consumer."""

    def __init__(self, capacity: int, newest_only: bool) -> None:
        self.newest_only = newest_only
        self.dropped = 0
        self._capacity = capacity
        self._frames: deque[LiveFrame] = deque()
        self._changed = threading.Condition()
        self._taken = False
        self._ended = False
        self._closed = False
        self._error: Exception | None = None
        renew_in_child(self)

    def renew(self) -> None:
        """End with an error in a forked process, which has no reader thread."""
        self._changed = threading.Condition()
        if not self._ended:
            self._frames.clear()
            self.end(VideoError("a live source can be read by the process that opened it only"))

    def put(self, frame: LiveFrame) -> bool:
        """Add a frame, waiting for room; return False if the handover is closed."""
        with self._changed:
            if self.newest_only and self._frames:
                self._frames.clear()
                # Not counted before the first frame is taken, such as while a model is loaded.
                self.dropped += self._taken
            self._changed.wait_for(lambda: self._closed or len(self._frames) < self._capacity)
            if not self._closed:
                self._frames.append(frame)
            self._changed.notify_all()
            return not self._closed

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond `close()`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, max(seconds, 0.0))

    def end(self, error: Exception | None) -> None:
        """Mark the end of the source, optionally by an error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def first(self) -> LiveFrame | None:
        """Return the next frame without removing it; None after the last.

        Raises:
            Exception: the error that ended the source; raised once.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended or self._closed)
            if self._frames:
                return self._frames[0]
            error, self._error = self._error, None
            if error is not None:
                raise error
            return None

    def take(self) -> LiveFrame | None:
        """Remove and return the next frame; otherwise as `first`."""
        with self._changed:
            frame = self.first()
            if frame is not None:
                self._frames.popleft()
                self._taken = True
                self._changed.notify_all()
            return frame

    def close(self) -> None:
        """Discard all frames and stop the reader."""
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._error = None
            self._changed.notify_all()
