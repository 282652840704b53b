"""Frames and files of a video as they were when it was opened.

Small inputs are held in memory. Larger ones are checked on access, so that a session never
continues with frames of another video: a change raises VideoError.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastsam2.data.frame_source import Frame
from fastsam2.errors import VideoError

__all__ = ["HeldArray", "HeldFile", "OpenFile"]

_Stamp = tuple[int, int]


def _stamp(descriptor: int) -> _Stamp:
    """Size in bytes and modification time in nanoseconds."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _changed(name: str, frame_idx: int | None) -> VideoError:
    return VideoError(f"{name} has changed since the video was opened", frame_idx)


class HeldFile:
    """Image file or its bytes, read when it is opened if it has at most `room` bytes.

    Raises:
        VideoError: the file cannot be read.
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, frame_idx: int, room: int) -> None:
        self._frame_idx = frame_idx
        self._content: bytes | None = None
        if isinstance(file, bytes):
            self.path, self._content = Path(f"frame {frame_idx}"), file
            self.held_bytes = len(file)
            return
        self.path = Path(file)
        with self._open() as opened:
            self._stamp = _stamp(opened.fileno())
            if self._stamp[0] <= room:
                self._content = opened.read()
        self.held_bytes = 0 if self._content is None else len(self._content)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self.path.open("rb") as file:
                yield file
        except FileNotFoundError:
            raise VideoError(f"no such image: {self.path}", self._frame_idx) from None
        except OSError as error:
            raise VideoError(
                f"cannot read the image {self.path}: {error.strerror}", self._frame_idx
            ) from error

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open the content as a binary file.

        Raises:
            VideoError: the file is gone or has changed.
        """
        if self._content is not None:
            yield io.BytesIO(self._content)
            return
        with self._open() as file:
            try:
                yield file
            finally:
                # Before any error, since half a file reads as a damaged one.
                if _stamp(file.fileno()) != self._stamp:
                    raise _changed(str(self.path), self._frame_idx)


class HeldArray:
    """Frame in memory: a copy if it has at most `room` bytes, else the caller's array, with a
    checksum. An array that cannot be written to is used as it is."""

    def __init__(self, frame: Frame, name: str, frame_idx: int, room: int) -> None:
        self._name = f"frame {frame_idx} of {name}"
        self._frame_idx = frame_idx
        self._sum: int | None = None
        self.held_bytes = 0
        if frame.flags.writeable and frame.nbytes <= room:
            frame = frame.copy()
            self.held_bytes = frame.nbytes
        elif frame.flags.writeable:
            self._sum = _checksum(frame)
        self._frame = frame

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._frame.shape[:2]
        return height, width

    def read(self) -> Frame:
        """Return a view of the frame.

        Raises:
            VideoError: the array has changed.
        """
        if self._sum is not None and _checksum(self._frame) != self._sum:
            raise _changed(self._name, self._frame_idx)
        return self._frame.view()


def _checksum(frame: Frame) -> int:
    """Checksum of every 8th row: quick, and another picture changes some of them."""
    return zlib.crc32(frame[::8].tobytes())


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


# Forked processes share a descriptor's position, which `pread` leaves alone; Windows has neither.
_pread: Callable[[int, int, int], bytes] = getattr(os, "pread", _read_at)


class OpenFile:
    """Video file that is kept open, so that it can be read after it has been deleted or replaced.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._name = str(path)
        self._stamp = _stamp(self._file.fileno())

    def reader(self) -> io.RawIOBase:
        """Return a file object on the content, with a position of its own."""
        return _Reader(self._file, self._name)

    def check(self, frame_idx: int | None = None) -> None:
        """Raise VideoError if the file has been written to."""
        if _stamp(self._file.fileno()) != self._stamp:
            raise _changed(self._name, frame_idx)

    def close(self) -> None:
        self._file.close()


class _Reader(io.RawIOBase):
    """Reads an open file; closing it leaves the file open."""

    def __init__(self, file: io.FileIO, name: str) -> None:
        self._file = file
        self._position = 0
        self.name = name  # FFmpeg guesses formats by its suffix

    def read(self, size: int = -1, /) -> bytes:
        size = os.fstat(self._file.fileno()).st_size if size < 0 else size
        found = _pread(self._file.fileno(), size, self._position)
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        end = os.fstat(self._file.fileno()).st_size
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence]
        self._position = begin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
