"""Frame source for still images: a folder, or a list of files, PIL images and arrays."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastsam2.data.cache import FrameCache
from fastsam2.data.frame_source import (
    DEFAULT_CACHE_BYTES,
    DEFAULT_HELD_BYTES,
    Frame,
    FrameSource,
    check_array,
)
from fastsam2.data.held import HeldArray, HeldFile
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
    if isinstance(image, Image.Image):
        return _pixels(image, frame_idx)
    return _read_file(image, os.fspath(image), frame_idx)


def _read_file(file: Any, name: str, frame_idx: int | None) -> Frame:
    """Read an image from a path or a binary file."""
    with _image_errors(name, frame_idx), Image.open(file) as opened:
        return _pixels(opened, frame_idx)


@contextmanager
def _image_errors(name: str, frame_idx: int | None) -> Iterator[None]:
    """Turn Pillow's errors into VideoError."""
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{name}: {error}", frame_idx) from None
    except FileNotFoundError:
        raise VideoError(f"no such image: {name}", frame_idx) from None
    except UnidentifiedImageError:
        raise VideoError(f"cannot read the image {name}: not an image", frame_idx) from None
    # Pillow's plugins also raise SyntaxError and ValueError on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).split("\n")[0]
        raise VideoError(f"cannot read the image {name}: {reason}", frame_idx) from error


def _pixels(image: Image.Image, frame_idx: int | None) -> Frame:
    if image.mode.startswith(_DEEP_MODES):
        raise VideoError(
            f"pixel mode {image.mode} is not supported: images must have 8 bits per channel",
            frame_idx,
        )
    return np.array(image.convert("RGB"))


class ImageSource(FrameSource):
    """Frames of a list of image files, PIL images and uint8 arrays `[H, W, 3]`, also mixed.

    Arrays and the encoded bytes of files are held in memory up to `held_bytes`; beyond it, reading
    one that has changed raises VideoError.

    Raises:
        VideoError: no images, a missing file, an item that is not an image, a damaged first image,
            or an image of another size than the first.
    """

    def __init__(
        self,
        items: Sequence[Any],
        name: str = "the list of frames",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        held_bytes: int = DEFAULT_HELD_BYTES,
    ) -> None:
        super().__init__(name)
        if not items:
            raise VideoError(f"{name} is empty")
        self._items: list[HeldFile | HeldArray | Image.Image] = []
        for frame_idx, item in enumerate(items):
            held = self._held(item, frame_idx, held_bytes)
            held_bytes -= 0 if isinstance(held, Image.Image) else held.held_bytes
            self._items.append(held)
        first = self._load(0)
        self.height, self.width = first.shape[:2]
        self._cache: FrameCache[Frame] = FrameCache(cache_bytes, first.nbytes)
        self._cache.put(0, first)
        for frame_idx in range(1, len(items)):
            size = self._size(frame_idx)
            if size is not None:
                self._check_size(frame_idx, *size)

    def __len__(self) -> int:
        return len(self._items)

    def _held(self, item: Any, frame_idx: int, room: int) -> HeldFile | HeldArray | Image.Image:
        if isinstance(item, Image.Image):
            return item
        if isinstance(item, (str, os.PathLike)):
            return HeldFile(item, frame_idx, room)
        array = check_array(item, f"frame {frame_idx}", ndim=3, frame_idx=frame_idx)
        return HeldArray(array, self.name, frame_idx, room)

    def _size(self, frame_idx: int) -> tuple[int, int] | None:
        """Height and width, without decoding; None if the file is damaged."""
        item = self._items[frame_idx]
        if isinstance(item, Image.Image):
            return item.height, item.width
        if isinstance(item, HeldArray):
            return item.size
        try:
            with (
                item.open() as file,
                _image_errors(str(item.path), frame_idx),
                Image.open(file) as opened,
            ):
                return opened.height, opened.width
        except VideoError:
            return None

    def _load(self, frame_idx: int) -> Frame:
        item = self._items[frame_idx]
        if isinstance(item, HeldArray):
            return item.read()
        if isinstance(item, Image.Image):
            return read_image(item, frame_idx)
        with item.open() as file:
            return _read_file(file, str(item.path), frame_idx)

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
