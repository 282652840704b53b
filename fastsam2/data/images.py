"""Frame source for still images: a folder, or a list of files, PIL images and arrays."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

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

_LOG = logging.getLogger(__name__)

# Pillow clips these to 8 bits instead of scaling them.
_DEEP_MODES = ("I", "F")


_DECIMAL = re.compile(r"(\d+\.\d+)")


def _natural_key(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _decimal_key(path: Path) -> list[tuple[bool, Decimal, list[tuple[bool, int, str]]]]:
    """Natural key, except that `1.25` is a number between 1 and 2."""
    return [
        (is_decimal, Decimal(part if is_decimal else 0), _natural_key(Path(part)))
        for part in _DECIMAL.split(path.stem)
        for is_decimal in [_DECIMAL.fullmatch(part) is not None]
    ]


def _number(path: Path) -> Decimal | None:
    """Value of a name that is a number, such as `00012`, `1700000000.25` or `1e-05`."""
    try:
        value = Decimal(path.stem)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def image_files(folder: Path) -> list[Path]:
    """Return the JPEG files of `folder`, or its PNG files if it has no JPEG, in frame order.

    Sorted by number if all names are numbers, as `sam2` does; otherwise in natural order, with
    `frame_2` before `frame_10`. PNG files beside JPEG files, which `sam2` ignores, are logged.

    Raises:
        VideoError: no images, two files with the same number, or an order that depends on whether
            numbers such as `1.5` and `1.25` are decimals.
    """
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    jpegs = [path for path in found if path.suffix.lower() in (".jpg", ".jpeg")]
    pngs = [path for path in found if path.suffix.lower() == ".png"]
    files = jpegs or pngs
    if not files:
        raise VideoError(f"no JPEG or PNG images in the folder {folder}")
    if jpegs and pngs:
        _LOG.warning(
            "%s: the frames are the JPEG images (%d); the PNG images (%d) are ignored",
            *(folder, len(jpegs), len(pngs)),
        )
    return _in_order(files, folder)


def _in_order(files: list[Path], folder: Path) -> list[Path]:
    numbers = {path: _number(path) for path in files}
    all_numbers = None not in numbers.values()
    # Counters reach 10, which no decimal without padding ends in.
    are_counters = any(re.search(r"\.\d+0(?!\d)", path.stem) for path in files)
    natural = sorted(files, key=_natural_key)
    decimal = sorted(files, key=_decimal_key)
    if all_numbers:
        decimal = sorted(files, key=lambda path: (numbers[path] or 0, path.name))
        for before, after in itertools.pairwise(decimal):
            if numbers[before] == numbers[after]:
                raise VideoError(
                    f"two images for one frame in {folder}: {before.name}, {after.name}"
                )
    if all_numbers == are_counters:
        for one, other in zip(natural, decimal, strict=True):
            if one != other:
                raise VideoError(
                    f"the order of the images in {folder} is not clear: {one.name} and "
                    f"{other.name} hold decimals, or numbers of two parts; number them from 0"
                )
    return decimal if all_numbers else natural


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


def _content(item: HeldFile | HeldArray | Image.Image) -> bytes | Tensor:
    """Return the bytes of an image file, or the pixels of an image in memory."""
    if isinstance(item, HeldFile):
        with item.open() as file:
            return file.read()
    return torch.tensor(item.read() if isinstance(item, HeldArray) else read_image(item))


class ImageSource(FrameSource):
    """Frames of a list of image files or their bytes, PIL images and uint8 arrays `[H, W, 3]`,
    also mixed.

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
        self._cache_bytes = cache_bytes
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

    def __reduce__(self) -> tuple[type[ImageSource], tuple[list[bytes | Tensor], str, int]]:
        # With the content of files, which need not be there when the pickle is read.
        return ImageSource, ([_content(x) for x in self._items], self.name, self._cache_bytes)

    def _held(self, item: Any, frame_idx: int, room: int) -> HeldFile | HeldArray | Image.Image:
        if isinstance(item, Image.Image):
            return item
        if isinstance(item, (str, os.PathLike, bytes)):
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
