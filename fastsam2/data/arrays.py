"""Frame sources for arrays in memory and for iterators."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.data.frame_source import (
    DEFAULT_HELD_BYTES,
    Frame,
    FrameSource,
    check_array,
    check_size,
)
from fastsam2.data.held import HeldArray
from fastsam2.data.images import read_image
from fastsam2.errors import VideoError

__all__ = ["ArraySource", "SpooledSource"]


class ArraySource(FrameSource):
    """Frames of a uint8 array `[T, H, W, 3]` (NumPy or torch).

    Frames are copied up to `held_bytes`; beyond it, reading one that has changed raises VideoError.
    A read-only array is used without a copy.
    """

    def __init__(
        self,
        array: Any,
        name: str = "the array of frames",
        held_bytes: int = DEFAULT_HELD_BYTES,
    ) -> None:
        super().__init__(name)
        frames = check_array(array, name, ndim=4)
        self.height, self.width = frames.shape[1:3]
        self._frames: list[HeldArray] = []
        for frame_idx, frame in enumerate(frames):
            held = HeldArray(frame, name, frame_idx, held_bytes)
            held_bytes -= held.held_bytes
            self._frames.append(held)

    def __len__(self) -> int:
        return len(self._frames)

    def __reduce__(self) -> tuple[type[ArraySource], tuple[Tensor, str]]:
        # As a tensor, which `torch.load` reads by default.
        return ArraySource, (torch.from_numpy(np.stack([*self])), self.name)

    def _read(self, frame_idx: int) -> Frame:
        return self._frames[frame_idx].read()

    def _release(self) -> None:
        self._frames = []


class SpooledSource(ArraySource):
    """Frames of an iterator (arrays, PIL images or image files), spooled to a temporary file.

    The iterator is exhausted on construction. The file holds raw pixels (2.8 MB for a frame of
    1280x720) and is memory-mapped, so memory stays bounded; it is deleted with the source.

    Raises:
        VideoError: there are no frames, an item is not a frame, or sizes differ.
    """

    def __init__(self, frames: Iterable[Any], name: str = "the iterator of frames") -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="fastsam2-")  # noqa: SIM115
        try:
            shape = self._spool(frames, name)
            mapped = np.memmap(self._file, np.uint8, mode="r", shape=shape)
        except BaseException:
            self._file.close()
            raise
        super().__init__(mapped, name)

    def _spool(self, frames: Iterable[Any], name: str) -> tuple[int, int, int, int]:
        count, first = 0, None
        for count, item in enumerate(frames, start=1):
            frame = self._as_frame(item, count - 1)
            first = frame.shape if first is None else first
            check_size(name, count - 1, frame.shape[:2], first[:2])
            self._file.write(np.ascontiguousarray(frame).data)
        if first is None:
            raise VideoError(f"{name} is empty")
        self._file.flush()
        return count, first[0], first[1], 3

    @staticmethod
    def _as_frame(item: Any, frame_idx: int) -> Frame:
        if isinstance(item, (str, os.PathLike, Image.Image)):
            return read_image(item, frame_idx)
        return check_array(item, f"frame {frame_idx}", ndim=3, frame_idx=frame_idx)

    def _release(self) -> None:
        super()._release()
        self._file.close()
