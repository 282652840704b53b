"""Synthetic clips of any length for benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.data.frame_source import Frame, FrameSource
from fastsam2.data.loader import FrameLoader
from fastsam2.data.preprocess import preprocess_frame
from fastsam2.nano.synthetic import make_clip

__all__ = ["Clip", "Prepared", "bounce", "make_video", "write_jpegs"]

_DRAWN = 16  #: distinct frames; longer clips play them forward and backward


def bounce(frame_idx: int, count: int) -> int:
    """Index into `count` frames that are played forward and backward in turns."""
    last = count - 1
    return last - abs(frame_idx % (2 * last) - last)


@dataclass(frozen=True)
class Clip:
    """Distinct frames, uint8 `[T, H, W, 3]`, and a box (x0, y0, x1, y1) per object on the first."""

    frames: Frame
    boxes: np.ndarray
    length: int  #: frames of the clip, which repeats the distinct ones

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]

    def place(self, frame_idx: int) -> int:
        """Index of the distinct frame shown at `frame_idx`."""
        return bounce(frame_idx, len(self.frames))

    def __iter__(self) -> Iterator[Frame]:
        return (self.frames[self.place(t)] for t in range(self.length))


@functools.cache
def make_video(objects: int, length: int, size: tuple[int, int], seed: int = 7) -> Clip:
    """Make a clip of `length` frames of `size` (height, width).

    Up to 16 objects are visible ones; the boxes of further objects lie on a grid over the frame.
    """
    height, width = size
    drawn = make_clip(seed, min(_DRAWN, length), level=1, size=256, objects=min(objects, 16))
    frames = [np.asarray(Image.fromarray(x).resize((width, height))) for x in drawn.frames]
    scale = np.array([width, height, width, height]) / 256
    boxes = []
    for label in range(1, drawn.objects + 1):
        y, x = np.nonzero(drawn.labels[0] == label)
        boxes.append(scale * [x.min(), y.min(), x.max() + 1, y.max() + 1])
    for i in range(objects - len(boxes)):
        corner = np.array([0.05 + 0.08 * (i % 10), 0.05 + 0.07 * (i // 10 % 10)])
        boxes.append(np.concatenate([corner, corner + 0.15]) * [width, height, width, height])
    return Clip(np.stack(frames), np.stack(boxes), length)


def write_jpegs(clip: Clip, folder: Path) -> Path:
    """Write the frames as numbered JPEG files, a format that every tracker reads."""
    for t, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{t:05d}.jpg", quality=95)
    return folder


class Prepared(FrameLoader):
    """Frames preprocessed in advance, on the device, as in `sam2/benchmark.py`."""

    def __init__(
        self,
        clip: Clip,
        image_size: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(_Repeated(clip), image_size, prefetch=0)
        self._clip = clip
        self._images = [preprocess_frame(x, image_size).to(device, dtype) for x in clip.frames]

    def _frame(self, frame_idx: int) -> Tensor:
        image: Tensor = self._images[self._clip.place(frame_idx)]
        return image


class _Repeated(FrameSource):
    def __init__(self, clip: Clip) -> None:
        super().__init__("the synthetic clip")
        self._clip = clip
        self.height, self.width = clip.size

    def __len__(self) -> int:
        return self._clip.length

    def _read(self, frame_idx: int) -> Frame:
        return self._clip.frames[self._clip.place(frame_idx)]

    def _release(self) -> None:
        pass
