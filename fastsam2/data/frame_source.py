"""Base class of frame sources, and checks of frames."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastsam2.data.closing import Closing
from fastsam2.errors import VideoError
from fastsam2.processes import renew_in_child

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "DEFAULT_HELD_BYTES",
    "Frame",
    "FrameSource",
    "check_array",
    "check_size",
]

Frame = npt.NDArray[np.uint8]

DEFAULT_CACHE_BYTES = 256 * 2**20
DEFAULT_HELD_BYTES = 2**30


class FrameSource(Closing):
    """Video as a sequence of RGB frames, uint8 `[height, width, 3]`, decoded on access.

    Access is random and thread-safe. Frames are read-only, since they may be shared with a cache:
    copy a frame to change it. A frame that cannot be read raises VideoError with its `frame_idx`;
    the frames before it stay readable.
    """

    name: str  #: used in messages
    height: int
    width: int
    fps: float | None  #: frames per second; None if unknown

    def __init__(self, name: str) -> None:
        self.name = name
        self.fps = None
        self._lock = threading.RLock()
        self._closed = False
        renew_in_child(self)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, frame_idx: int) -> Frame:
        """Read frame `frame_idx`, which is in range. Called with the lock held."""

    def __getitem__(self, frame_idx: int) -> Frame:
        length = len(self)
        position = frame_idx + length if frame_idx < 0 else frame_idx
        if not 0 <= position < length:
            raise IndexError(f"frame {frame_idx} of {self.name}, which has {length} frames")
        with self._lock:
            if self._closed:
                raise VideoError(f"{self.name} has been closed", position)
            frame = self._read(position)
        frame.flags.writeable = False
        return frame

    def __iter__(self) -> Iterator[Frame]:
        for frame_idx in range(len(self)):
            yield self[frame_idx]

    def close(self) -> None:
        """Release files and memory; later reads raise VideoError. May be called repeatedly."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def renew(self) -> None:
        """Make the source usable in a forked process."""
        self._lock = threading.RLock()

    @abstractmethod
    def _release(self) -> None:
        """Release files and memory. Called once, with the lock held."""

    def _check_size(self, frame_idx: int, height: int, width: int) -> None:
        check_size(self.name, frame_idx, (height, width), (self.height, self.width))


def check_size(name: str, frame_idx: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raise VideoError if a frame's size, (height, width), differs from that of the others."""
    if size != expected:
        raise VideoError(
            f"frame {frame_idx} of {name} is {size[1]}x{size[0]} pixels, "
            f"but the frames before it are {expected[1]}x{expected[0]}",
            frame_idx,
        )


def check_array(array: Any, what: str, *, ndim: int, frame_idx: int | None = None) -> Frame:
    """Convert a NumPy or torch array, on any device, to a checked NumPy array.

    Args:
        array: uint8 `[H, W, 3]` or `[T, H, W, 3]`.
        what: name of the array in messages.
        ndim: 3 or 4.
        frame_idx: frame number for the error.

    Raises:
        VideoError: another dtype or shape, or an empty array.
    """
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    wanted = "[T, H, W, 3]" if ndim == 4 else "[H, W, 3]"
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise VideoError(f"{what} must be a uint8 array {wanted}, not {kind}", frame_idx)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3:
        raise VideoError(
            f"{what} must be a uint8 array {wanted}, not {array.dtype} {list(array.shape)}",
            frame_idx,
        )
    if array.size == 0:
        raise VideoError(f"{what} is empty: shape {list(array.shape)}", frame_idx)
    return array
