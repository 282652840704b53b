"""Frames of a source whose end is not known: a camera, a network stream, a pipe."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastsam2.data.frame_source import check_size
from fastsam2.data.live_inputs import LiveFrame, LiveInput, is_live, open_input
from fastsam2.errors import InputError, VideoError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DROP", "POLICIES", "QUEUE", "LiveFrame", "LiveSource", "is_live"]

DROP, QUEUE = POLICIES = ("drop", "queue")


class LiveSource(Iterator[LiveFrame]):
    """An iterator of `(time, image)`: seconds since the first frame, and uint8 RGB `[H, W, 3]`.

    A thread reads and decodes. What happens to frames that come faster than they are taken is the
    policy:

    - `"drop"`: only the newest is kept, so that whoever takes frames is never behind. The default
      for cameras and the network. What has a known duration is then played at its own speed.
    - `"queue"`: every frame is kept. When `queue_size` frames wait, so does the thread, and with it
      the sender, if it can. The default for everything else.

    A frame that cannot be decoded is left out and counted; what else goes wrong is raised by the
    iterator after the frames read before. Rotation metadata is applied, as players do. `with`
    or `close()` ends the thread; so does dropping the source.

    Args:
        source: `camera:0` (also `camera:/dev/video0`, or a camera's name on macOS and Windows), a
            URL (`rtsp://`, `http://`, `udp://` ...), `-` for stdin, a video file, a binary file
            object that is read without seeking, or an iterable of uint8 arrays `[H, W, 3]`.
        policy: `"drop"` or `"queue"`; None for the source's default.
        queue_size: how many frames may wait, at `3 * H * W` bytes each.
        timeout: seconds after which a silent camera or network counts as lost.

    Attributes:
        height, width: size of the frames, in pixels.
        fps: frames per second as the source states them; None where it does not.

    Raises:
        InputError: an unknown policy, or a queue that holds nothing.
        VideoError: the source cannot be opened, has no frames, or breaks off. The first frame is
            waited for.
    """

    def __init__(
        self,
        source: Any,
        policy: str | None = None,
        *,
        queue_size: int = 8,
        timeout: float = 10.0,
    ) -> None:
        if policy not in (None, *POLICIES):
            raise InputError(f"unknown policy {policy!r}: choose one of {', '.join(POLICIES)}")
        if queue_size < 1:
            raise InputError(f"queue_size must be at least 1, but is {queue_size}")
        self._input = open_input(source, timeout)
        self.policy = policy or (QUEUE if self._input.waits else DROP)
        self._handover = _Handover(1 if self.policy == DROP else queue_size, self.policy == DROP)
        # The thread knows the handover only, so the source can go while it runs.
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
        """What the source is called in messages."""
        return self._input.name

    @property
    def fps(self) -> float | None:
        return self._input.fps

    @property
    def dropped(self) -> int:
        """Frames that newer ones have replaced since the first frame was taken."""
        return self._handover.dropped

    @property
    def damaged(self) -> int:
        """Frames that could not be decoded."""
        return self._input.damaged

    def __next__(self) -> LiveFrame:
        frame = self._handover.take()
        if frame is None:
            raise StopIteration
        return frame

    def close(self) -> None:
        """Ends the stream: the iterator stops. May be called twice, and from any thread.

        Does not wait for the thread, which may sit in a read that nothing interrupts.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read(source: LiveInput, handover: _Handover) -> None:
    """Reads until the source ends, or nobody wants its frames any more. Runs in a thread."""
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
    except Exception as error:
        handover.end(error)


class _Handover:
    """Frames on their way from the thread that reads them to whoever takes them."""

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

    def put(self, frame: LiveFrame) -> bool:
        """Adds a frame, once there is room; False if there never will be."""
        with self._changed:
            if self.newest_only and self._frames:
                self._frames.clear()
                # While a model is being loaded, say, nobody misses a frame.
                self.dropped += self._taken
            self._changed.wait_for(lambda: self._closed or len(self._frames) < self._capacity)
            if not self._closed:
                self._frames.append(frame)
            self._changed.notify_all()
            return not self._closed

    def pause(self, seconds: float) -> None:
        """Waits, but not beyond `close()`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, max(seconds, 0.0))

    def end(self, error: Exception | None) -> None:
        """No frame will follow, because of an error or without one."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def first(self) -> LiveFrame | None:
        """The frame that is next, which stays; None after the last. Raises what ended it, once."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended or self._closed)
            if self._frames:
                return self._frames[0]
            error, self._error = self._error, None
            if error is not None:
                raise error
            return None

    def take(self) -> LiveFrame | None:
        """As `first`, but the frame does not stay."""
        with self._changed:
            frame = self.first()
            if frame is not None:
                self._frames.popleft()
                self._taken = True
                self._changed.notify_all()
            return frame

    def close(self) -> None:
        """No frame is wanted any more."""
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._error = None
            self._changed.notify_all()
