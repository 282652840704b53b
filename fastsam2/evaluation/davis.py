"""Videos with annotated objects, in folders as DAVIS 2017 lays them out.

JPEGImages/480p/bear/00000.jpg ...     or without the resolution: JPEGImages/bear/00000.jpg
Annotations/480p/bear/00000.png ...    palette images of object numbers, 0 is background
ImageSets/2017/val.txt                 which sequences to take, a name a line; may be missing
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
_VOID = 255  # neither object nor background; the toolkit takes it for background, and so it is here
_SHORTEST = 3  # frames: the first and the last do not count


@dataclass(frozen=True)
class DavisSequence:
    """One video and its annotations, which are read when asked for.

    Attributes:
        name: what it is called.
        folder: where the frames are.
        frame_files: the frames, in order.
        label_files: the annotation of each frame.
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
            VideoError: it cannot be read.
        """
        try:
            with Image.open(self.frame_files[0]) as image:
                return image.height, image.width
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"cannot read the image {self.frame_files[0]}: {error}", 0) from None

    def labels(self, frame_idx: int) -> npt.NDArray[np.uint8]:
        """The object numbers of a frame, `[H, W]`; 0 is background.

        Raises:
            VideoError: the annotation is damaged, no label image, or not the size of the frames.
        """
        path = self.label_files[frame_idx]
        try:
            with Image.open(path) as image:
                mode, labels = image.mode, np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"cannot read the annotation {path}: {error}", frame_idx) from None
        if mode not in ("1", "L", "P"):
            raise VideoError(
                f"the annotation {path} has pixels of type {mode}: expected a palette image",
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
        """Each object and the first frame it is on, by frame and then by object.

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
                f"numbers, in which {_VOID} is no object"
            )
        return first


@dataclass(frozen=True)
class DavisFolder:
    """The sequences of a folder, which are looked into one by one.

    Attributes:
        frames: the folder that holds a folder of frames a sequence.
        labels: the same for annotations.
        names: the sequences.
    """

    frames: Path
    labels: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[DavisSequence]:
        return map(self.sequence, self.names)

    def sequence(self, name: str) -> DavisSequence:
        """The sequence of this name.

        Raises:
            VideoError: there is none, it is too short to be measured, or a frame has no annotation.
        """
        folder, labels = self.frames / name, self.labels / name
        for kind, path in (("frames", folder), ("annotations", labels)):
            if not path.is_dir():
                raise VideoError(f"no {kind} of the sequence {name}: there is no folder {path}")
        files = image_files(folder)
        if len(files) < _SHORTEST:
            raise VideoError(
                f"the sequence {name} has {len(files)} of the {_SHORTEST} frames that are needed "
                "at least: the first and the last do not count"
            )
        label_files = [labels / f"{path.stem}.png" for path in files]
        missing = [path for path in label_files if not path.is_file()]
        if missing:
            raise VideoError(
                f"{len(missing)} of the {len(files)} frames of {name} have no annotation: the "
                f"first one that is missing is {missing[0]}"
            )
        return DavisSequence(name, folder, tuple(files), tuple(label_files))


def open_davis(folder: str | Path, resolution: str | None = None) -> DavisFolder:
    """Finds the sequences of a folder, without reading any.

    They are those of `ImageSets/2017/val.txt` or, without a 2017, of the latest year's, and without
    any list all there are, by name.

    Args:
        folder: as shown above.
        resolution: the folder between `JPEGImages` and the sequences; by default `480p` where there
            is one, else the only one, else none.

    Raises:
        VideoError: the folder, or what it has to hold, is not there; or there are several
            resolutions to choose from.
    """
    root = Path(folder)
    if not root.is_dir():
        raise VideoError(f"no such folder: {root}")
    frames, labels = root / "JPEGImages", root / "Annotations"
    for path in (frames, labels):
        if not path.is_dir():
            raise VideoError(f"{root} is not laid out as DAVIS is: it has no folder {path.name}")
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
    """The folders in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _resolution(frames: Path) -> str:
    """The name of the folder that holds the sequences; empty if `frames` does so itself."""
    inside = _folders(frames)
    if any(path.name == _RESOLUTION for path in inside):
        return _RESOLUTION
    # A folder of folders is a resolution, a folder of images a sequence.
    found = [path.name for path in inside if not _has_images(path) and _folders(path)]
    if len(found) > 1:
        raise VideoError(
            f"{frames} has no folder {_RESOLUTION} but several others: {', '.join(found)}"
        )
    return found[0] if found else ""


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def _listed(image_sets: Path) -> list[str] | None:
    """The sequences in the list of a year; None if there is no list."""
    years = [path.parent for path in sorted(image_sets.glob("[0-9][0-9][0-9][0-9]/val.txt"))]
    if not years:
        return None
    year = image_sets / _YEAR if image_sets / _YEAR in years else years[-1]
    path = year / "val.txt"
    names = path.read_text(encoding="utf-8", errors="replace").split()
    if not names:
        raise VideoError(f"no sequences in the list {path}")
    return list(dict.fromkeys(names))
