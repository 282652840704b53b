"""Annotated videos in the folder layout of DAVIS 2017.

JPEGImages/480p/bear/00000.jpg ...     or without the resolution: JPEGImages/bear/00000.jpg
Annotations/480p/bear/00000.png ...    palette images of object ids, 0 is background
ImageSets/2017/val.txt                 names of the sequences, one per line; optional
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastsam2.data.images import IMAGE_SUFFIXES, image_files
from fastsam2.errors import VideoError

__all__ = ["DavisFolder", "DavisSequence", "open_davis"]

_RESOLUTION = "480p"
_YEAR = "2017"
_VOID = 255  # neither object nor background; counts as background, as in the DAVIS toolkit
_SHORTEST = 3  # frames; the first and the last are not evaluated


@dataclass(frozen=True)
class DavisSequence:
    """One video and its annotations, read on access.

    Attributes:
        name: name of the sequence.
        folder: folder of the frames.
        frame_files: frames in order.
        label_files: annotation of each frame.
    """

    name: str
    folder: Path
    frame_files: tuple[Path, ...]
    label_files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.frame_files)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels, from the header of the first.

        Raises:
            VideoError: the first frame cannot be read.
        """
        try:
            with Image.open(self.frame_files[0]) as image:
                return image.height, image.width
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"cannot read the image {self.frame_files[0]}: {error}", 0) from None

    def labels(self, frame_idx: int) -> npt.NDArray[np.uint8]:
        """Read the object ids of a frame, `[H, W]`; 0 is background.

        Raises:
            VideoError: the annotation is damaged, not a label image, or of another size than the
                frames.
        """
        path = self.label_files[frame_idx]
        try:
            with Image.open(path) as image:
                mode, labels = image.mode, np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"cannot read the annotation {path}: {error}", frame_idx) from None
        if mode not in ("1", "L", "P"):
            raise VideoError(
                f"the annotation {path} has pixel mode {mode}: expected a palette image",
                frame_idx,
            )
        if labels.shape != self.size:
            (height, width), (rows, columns) = self.size, labels.shape
            raise VideoError(
                f"the annotation {path} is {columns}x{rows} pixels, but the frames are "
                f"{width}x{height}",
                frame_idx,
            )
        labels = labels.astype(np.uint8)
        labels[labels == _VOID] = 0
        return labels

    def first_frames(self) -> dict[int, int]:
        """Map each object to the first frame it appears on, ordered by frame, then by object.

        Raises:
            VideoError: as `labels`, or there are no objects.
        """
        first: dict[int, int] = {}
        for frame_idx in range(len(self)):
            for obj_id in np.unique(self.labels(frame_idx)):
                if obj_id:
                    first.setdefault(int(obj_id), frame_idx)
        if not first:
            raise VideoError(
                f"no objects in the annotations of {self.name}: expected palette images of object "
                f"ids (0 is background, {_VOID} void)"
            )
        return first


@dataclass(frozen=True)
class DavisFolder:
    """Sequences of a folder, each checked on access.

    Attributes:
        frames: folder with one subfolder of frames per sequence.
        labels: folder with one subfolder of annotations per sequence.
        names: names of the sequences.
    """

    frames: Path
    labels: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[DavisSequence]:
        return map(self.sequence, self.names)

    def sequence(self, name: str) -> DavisSequence:
        """Return the sequence called `name`.

        Raises:
            VideoError: the sequence is missing, too short to be evaluated, or lacks annotations.
        """
        folder, labels = self.frames / name, self.labels / name
        for kind, path in (("frames", folder), ("annotations", labels)):
            if not path.is_dir():
                raise VideoError(f"no {kind} of the sequence {name}: there is no folder {path}")
        files = image_files(folder)
        if len(files) < _SHORTEST:
            raise VideoError(
                f"the sequence {name} has {len(files)} frames, but at least {_SHORTEST} are "
                "needed: the first and the last are not evaluated"
            )
        label_files = [labels / f"{path.stem}.png" for path in files]
        missing = [path for path in label_files if not path.is_file()]
        if missing:
            raise VideoError(
                f"{len(missing)} of the {len(files)} frames of {name} have no annotation; the "
                f"first missing file is {missing[0]}"
            )
        return DavisSequence(name, folder, tuple(files), tuple(label_files))


def open_davis(folder: str | Path, resolution: str | None = None) -> DavisFolder:
    """List the sequences of a folder, without reading them.

    The sequences are those in `ImageSets/2017/val.txt`, or in the list of the latest year if there
    is none of 2017; without any list, all sequences in alphabetical order.

    Args:
        folder: folder in the layout shown in this module's docstring.
        resolution: folder between `JPEGImages` and the sequences; by default `480p` if it exists,
            else the only one, else none.

    Raises:
        VideoError: the folder or a required subfolder is missing, or the resolution is ambiguous.
    """
    root = Path(folder)
    if not root.is_dir():
        raise VideoError(f"no such folder: {root}")
    frames, labels = root / "JPEGImages", root / "Annotations"
    for path in (frames, labels):
        if not path.is_dir():
            raise VideoError(f"{root} is not in the layout of DAVIS: it has no folder {path.name}")
    if resolution is None:
        resolution = _resolution(frames)
    frames, labels = frames / resolution, labels / resolution
    for path in (frames, labels):
        if not path.is_dir():
            raise VideoError(f"no such folder: {path}")
    listed = _listed(root / "ImageSets")
    names = listed if listed is not None else [path.name for path in _folders(frames)]
    if not names:
        raise VideoError(f"no sequences in {frames}")
    return DavisFolder(frames, labels, tuple(names))


def _folders(folder: Path) -> list[Path]:
    """Subfolders of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _resolution(frames: Path) -> str:
    """Name of the resolution folder in `frames`; empty if there is none."""
    inside = _folders(frames)
    if any(path.name == _RESOLUTION for path in inside):
        return _RESOLUTION
    # A resolution holds folders, a sequence holds images.
    found = [path.name for path in inside if not _has_images(path) and _folders(path)]
    if len(found) > 1:
        raise VideoError(
            f"{frames} has no folder {_RESOLUTION}, but several others: {', '.join(found)}"
        )
    return found[0] if found else ""


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def _listed(image_sets: Path) -> list[str] | None:
    """Names in the list of 2017, or of the latest year; None if there is no list."""
    years = [path.parent for path in sorted(image_sets.glob("[0-9][0-9][0-9][0-9]/val.txt"))]
    if not years:
        return None
    year = image_sets / _YEAR if image_sets / _YEAR in years else years[-1]
    path = year / "val.txt"
    names = path.read_text(encoding="utf-8", errors="replace").split()
    if not names:
        raise VideoError(f"no sequences in the list {path}")
    return list(dict.fromkeys(names))
