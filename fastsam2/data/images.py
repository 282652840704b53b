"""Frame source for still images: a folder, or a list of files, PIL images and arrays."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.data.cache import FrameCache
from fastsam2.data.frame_source import DEFAULT_CACHE_BYTES, Frame, FrameSource, check_array
from fastsam2.errors import VideoError

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "image_files", "read_image"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

# Pillow clips these to 8 bits instead of scaling them.
_DEEP_MODES = ("I", "F")


def _natural_key(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _number(path: Path) -> int | None:
    try:
        return int(path.stem)
    except ValueError:
        return None


def image_files(folder: Path) -> list[Path]:
    """Return the JPEG files of `folder`, or its PNG files if it has no JPEG, in frame order.

    Sorted by number if all names are numbers, as `sam2` does; otherwise in natural order, with
    `frame_2` before `frame_10`.

    Raises:
        VideoError: no images, or two files with the same frame number.
    """
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = [path for path in found if path.suffix.lower() in (".jpg", ".jpeg")]
    files = files or [path for path in found if path.suffix.lower() == ".png"]
    if not files:
        raise VideoError(f"no JPEG or PNG images in the folder {folder}")
    numbers = {path: _number(path) for path in files}
    if any(number is None for number in numbers.values()):
        return sorted(files, key=_natural_key)
    files.sort(key=lambda path: (numbers[path] or 0, path.name))
    for before, after in itertools.pairwise(files):
        if numbers[before] == numbers[after]:
            raise VideoError(f"two images for one frame in {folder}: {before.name}, {after.name}")
    return files


def read_image(image: Image.Image | str | os.PathLike[str], frame_idx: int | None = None) -> Frame:
    """Read an image as RGB uint8 `[H, W, 3]`, without applying EXIF orientation, as `sam2` does.

    Raises:
        VideoError: the image is missing, damaged, or has more than 8 bits per channel.
    """
    if not isinstance(image, Image.Image):
        try:
            with Image.open(image) as opened:
                return read_image(opened, frame_idx)
        except VideoError as error:
            raise VideoError(f"{os.fspath(image)}: {error}", frame_idx) from None
        except FileNotFoundError:
            raise VideoError(f"no such image: {os.fspath(image)}", frame_idx) from None
        # Pillow's plugins also raise SyntaxError and ValueError on damaged files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).split("\n")[0]
            raise VideoError(
                f"cannot read the image {os.fspath(image)}: {reason}", frame_idx
            ) from error
    if image.mode.startswith(_DEEP_MODES):
        raise VideoError(
            f"pixel mode {image.mode} is not supported: images must have 8 bits per channel",
            frame_idx,
        )
    return np.array(image.convert("RGB"))


def _content(item: Any) -> bytes | Tensor:
    """Return the bytes of an image file, or the pixels of an image in memory."""
    if isinstance(item, (str, os.PathLike)):
        return Path(item).read_bytes()
    if isinstance(item, Image.Image):
        item = read_image(item)
    return item if isinstance(item, bytes) else torch.tensor(item)


class ImageSource(FrameSource):
    """Frames of a list of image files or their bytes, PIL images and uint8 arrays `[H, W, 3]`,
    also mixed."""

    def __init__(
        self,
        items: Sequence[Any],
        name: str = "the list of frames",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        super().__init__(name)
        if not items:
            raise VideoError(f"{name} is empty")
        self._items = [self._checked(item, frame_idx) for frame_idx, item in enumerate(items)]
        self._cache_bytes = cache_bytes
        first = self._load(0)
        self.height, self.width = first.shape[:2]
        self._cache: FrameCache[Frame] = FrameCache(cache_bytes, first.nbytes)
        self._cache.put(0, first)
        for frame_idx, item in enumerate(self._items):
            if isinstance(item, np.ndarray):
                self._check_size(frame_idx, *item.shape[:2])

    def __len__(self) -> int:
        return len(self._items)

    def __reduce__(self) -> tuple[type[ImageSource], tuple[list[bytes | Tensor], str, int]]:
        # With the content of files, which need not be there when the pickle is read.
        return ImageSource, ([_content(x) for x in self._items], self.name, self._cache_bytes)

    @staticmethod
    def _checked(item: Any, frame_idx: int) -> Any:
        if isinstance(item, (str, os.PathLike, Image.Image, bytes)):
            return item
        return check_array(item, f"frame {frame_idx}", ndim=3, frame_idx=frame_idx)

    def _load(self, frame_idx: int) -> Frame:
        item = self._items[frame_idx]
        if isinstance(item, bytes):
            with Image.open(io.BytesIO(item)) as opened:
                return read_image(opened, frame_idx)
        return item.view() if isinstance(item, np.ndarray) else read_image(item, frame_idx)

    def _read(self, frame_idx: int) -> Frame:
        frame = self._cache.get(frame_idx)
        if frame is None:
            frame = self._load(frame_idx)
            self._check_size(frame_idx, *frame.shape[:2])
            self._cache.put(frame_idx, frame)
        return frame

    def _release(self) -> None:
        self._items = []
        self._cache.clear()
