"""Preprocessed frames of a video, prefetched by a thread."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from fastsam2.data.cache import FrameCache
from fastsam2.data.frame_source import DEFAULT_CACHE_BYTES, FrameSource
from fastsam2.data.frame_tensor import FrameTensor
from fastsam2.data.preprocess import frame_for_device, model_input
from fastsam2.processes import renew_in_child

__all__ = ["FrameLoader"]


class FrameLoader(FrameTensor):
    """Frames of `source` as model input: `loader[i]` is float32 `[3, S, S]` on `device`, and the
    loader can be used as a tensor `[T, 3, S, S]`.

    Frames are cached as bytes, resized unless a GPU does that, and normalised on the device. From
    the first access on, a thread reads up to `prefetch` frames ahead, in the direction of the last
    two accesses. An error in the thread is raised by the access to the frame it belongs to.

    The thread ends with `close()`, or when the loader is garbage-collected; the source stays open.

    Args:
        source: source of the frames.
        image_size: S, in pixels.
        device: target of the frames.
        cache_bytes: bound on the cache of frames; it holds at least one.
        prefetch: number of frames to read ahead; 0 starts no thread.
    """

    def __init__(
        self,
        source: FrameSource,
        image_size: int,
        *,
        device: torch.device | str = "cpu",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        prefetch: int = 4,
    ) -> None:
        self.device = torch.device(device)
        self.image_size = image_size
        self._options = {"cache_bytes": cache_bytes, "prefetch": prefetch}
        self._reader = _Reader(source, image_size, device=self.device, **self._options)
        # The thread refers to the reader only, so the loader can be freed while it runs.
        self._finalizer = weakref.finalize(self, _Reader.stop, self._reader)

    @property
    def source(self) -> FrameSource:
        """Source of the frames."""
        return self._reader.source

    @property
    def video_height(self) -> int:
        """Height of the frames before resizing, in pixels."""
        return self.source.height

    @property
    def video_width(self) -> int:
        """Width of the frames before resizing, in pixels."""
        return self.source.width

    def __len__(self) -> int:
        return len(self.source)

    def _frame(self, frame_idx: int) -> Tensor:
        image = self._reader.get(frame_idx)
        return model_input(image.to(self.device, non_blocking=True), self.image_size)

    def __getstate__(self) -> dict[str, Any]:
        shape = {"image_size": self.image_size, "device": self.device}
        return {"source": self.source, **shape, **self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FrameLoader.__init__(self, **state)

    def __deepcopy__(self, memo: dict[int, object]) -> FrameLoader:
        """Return `self`: copies of a session share the frames."""
        return self

    def close(self) -> None:
        """End the thread and clear the cache. Frames can still be read, without prefetching."""
        self._finalizer()


class _Reader:
    """State shared by the loader and its thread: the cache, and the frames to read next."""

    def __init__(
        self,
        source: FrameSource,
        image_size: int,
        cache_bytes: int,
        prefetch: int,
        device: torch.device,
    ) -> None:
        self.source = source
        self._image_size = image_size
        self._device = device
        pixels = source.height * source.width if device.type == "cuda" else image_size**2
        self._cache: FrameCache[Tensor] = FrameCache(cache_bytes, 3 * pixels)
        # Prefetched frames must not evict each other, or the frame in use.
        self._prefetch = min(prefetch, self._cache.capacity - 1)
        self._changed = threading.Condition()
        self._errors: dict[int, Exception] = {}
        self._reading: int | None = None  # frame being read by the thread
        self._wanted: list[int] = []
        self._last: int | None = None
        self._step = 1
        self._stopped = False
        self._thread: threading.Thread | None = None
        renew_in_child(self)

    def renew(self) -> None:
        """Start over without a thread, in a forked process."""
        self._changed = threading.Condition()
        self._reading, self._thread = None, None

    def get(self, frame_idx: int) -> Tensor:
        """Return the frame as `frame_for_device` makes it."""
        with self._changed:
            self._plan(frame_idx)
            self._changed.wait_for(lambda: self._reading != frame_idx)
            image = self._cache.get(frame_idx)
            error = self._errors.pop(frame_idx, None)
        if error is not None:
            raise error
        if image is None:
            image = self._load(frame_idx)
            with self._changed:
                self._cache.put(frame_idx, image)
        return image

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the thread to end, if there is one."""
        if self._thread is not None:
            self._thread.join(timeout)

    def stop(self) -> None:
        """Tell the thread, if there is one, to end, without waiting for it."""
        with self._changed:
            self._stopped = True
            self._wanted = []
            self._errors.clear()
            self._cache.clear()
            self._changed.notify_all()

    def _load(self, frame_idx: int) -> Tensor:
        return frame_for_device(self.source[frame_idx], self._image_size, self._device)

    def _plan(self, frame_idx: int) -> None:
        """Schedule the frames after `frame_idx` for the thread."""
        if self._stopped or self._prefetch <= 0:
            return
        if self._last is not None and frame_idx != self._last:
            self._step = 1 if frame_idx > self._last else -1
        self._last = frame_idx
        ahead = (frame_idx + self._step * k for k in range(1, self._prefetch + 1))
        self._wanted = [k for k in ahead if 0 <= k < len(self.source)]
        # Drop errors of other frames: accessing those frames raises them again.
        near = {frame_idx, *self._wanted}
        self._errors = {k: error for k, error in self._errors.items() if k in near}
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fastsam2-prefetch", daemon=True)
            self._thread.start()
            _reading_ahead.add(self)
        self._changed.notify_all()

    def _next(self) -> int | None:
        for frame_idx in self._wanted:
            if frame_idx in self._errors:
                return None  # frames beyond a damaged one are rarely needed
            if frame_idx not in self._cache:
                return frame_idx
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._next() is not None)
                if self._stopped:
                    return
                self._reading = frame_idx = self._next()
            if frame_idx is None:
                continue
            image, error = None, None
            try:
                image = self._load(frame_idx)
            except Exception as raised:  # any error is raised again by `get`
                error = raised
            with self._changed:
                self._reading = None
                if not self._stopped:
                    if image is not None:
                        self._cache.put(frame_idx, image)
                    if error is not None:
                        self._errors[frame_idx] = error
                self._changed.notify_all()


_reading_ahead: weakref.WeakSet[_Reader] = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """Stop all threads: one inside PyTorch at interpreter shutdown would abort the process."""
    readers = list(_reading_ahead)
    for reader in readers:
        reader.stop()
    for reader in readers:
        reader.join(timeout=5.0)
