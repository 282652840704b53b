"""Open anything that holds video frames as a FrameSource."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from fastsam2.data.arrays import ArraySource, SpooledSource
from fastsam2.data.frame_source import (
    DEFAULT_CACHE_BYTES,
    DEFAULT_HELD_BYTES,
    Frame,
    FrameSource,
)
from fastsam2.data.images import IMAGE_SUFFIXES, ImageSource, image_files
from fastsam2.data.video import VideoSource
from fastsam2.errors import VideoError

__all__ = ["DEFAULT_CACHE_BYTES", "Frame", "FrameSource", "open_frames"]

_LONGEST_PATH = 4096  # bytes; a video is longer


def open_frames(
    video: Any,
    *,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    held_bytes: int = DEFAULT_HELD_BYTES,
) -> FrameSource:
    """Open frames for random access; decodes the first frame only.

    The frames stay those of the moment of opening, also if a folder is then deleted or reused:
    image files and arrays are held in memory, and a video file is kept open. Reading a frame beyond
    `held_bytes`, or of a video file, that has been written to since raises VideoError.

    Args:
        video: one of

            - a path (str or Path) to a video file, an image, or a folder of JPEG or PNG frames;
            - the bytes of a video file;
            - a list or tuple of image paths, PIL images and uint8 arrays `[H, W, 3]`;
            - a uint8 array or tensor `[T, H, W, 3]`, in RGB order;
            - an iterator of frames, which is spooled to a temporary file;
            - a FrameSource, which is returned unchanged.
        cache_bytes: bound on the cache of decoded frames; it holds at least one.
        held_bytes: bound on the encoded images, or the arrays, that are held in memory.

    Raises:
        VideoError: no frames can be read. A damaged frame raises VideoError with its `frame_idx`
            when it is accessed.
    """
    if isinstance(video, FrameSource):
        return video
    if isinstance(video, str) and "://" in video:
        raise VideoError(
            f"{video} is a URL: read it with fastsam2.data.live.LiveSource, or download it"
        )
    if isinstance(video, (str, os.PathLike)):
        return _open_path(_home_expanded(Path(video)), cache_bytes, held_bytes)
    if isinstance(video, (bytes, bytearray, memoryview)):
        if not len(video):
            raise VideoError("the video is empty (0 bytes)")
        if len(video) < _LONGEST_PATH and os.path.lexists(bytes(video)):
            raise VideoError(f"{bytes(video)!r} is a path: pass it as a str, not as bytes")
        return VideoSource(bytes(video), cache_bytes=cache_bytes)
    if hasattr(video, "read") and hasattr(video, "seek"):
        raise VideoError(
            f"cannot read frames from an open file ({type(video).__name__}): pass its path, or its "
            "content as bytes"
        )
    if isinstance(video, (list, tuple)):
        return ImageSource(video, cache_bytes=cache_bytes, held_bytes=held_bytes)
    if hasattr(video, "shape") and hasattr(video, "dtype"):
        return ArraySource(video, held_bytes=held_bytes)
    if isinstance(video, Iterable) and not isinstance(video, (Image.Image, dict, set)):
        return SpooledSource(video)
    raise VideoError(f"cannot read frames from an object of type {type(video).__name__}")


def _home_expanded(path: Path) -> Path:
    with suppress(RuntimeError):  # no such user
        return path.expanduser()
    return path


def _open_path(path: Path, cache_bytes: int, held_bytes: int) -> FrameSource:
    if path.is_dir():
        return ImageSource(image_files(path), str(path), cache_bytes, held_bytes)
    if not path.exists():
        raise VideoError(f"no such file or folder: {path}")
    if not path.is_file():
        raise VideoError(f"not a file: {path}")
    if path.stat().st_size == 0:
        raise VideoError(f"the file is empty (0 bytes): {path}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource([path], str(path), cache_bytes, held_bytes)
    return VideoSource(path, cache_bytes=cache_bytes)
