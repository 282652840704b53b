"""What comes out of tracking: an overlay video, label images and a JSON document."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastsam2.data.files import part_path, write_whole
from fastsam2.data.palette import davis_palette
from fastsam2.data.rle import box_from_mask, encode_rle
from fastsam2.data.video_writer import OverlayVideoWriter
from fastsam2.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "MaskPngWriter",
    "OverlayVideoWriter",
    "TrackJsonWriter",
    "label_image",
    "read_labels",
    "write_labels",
]


def label_image(masks: Mapping[int, Any]) -> npt.NDArray[np.uint8]:
    """Object ids `[H, W]`, one a pixel, 0 where there is no object.

    Where objects overlap, the one with the highest logit gets the pixel if `masks` holds logits
    (floating point, an object where above 0), and the later one if it holds bool masks.

    Raises:
        InputError: no masks, masks of several sizes or dtypes, or an id that is not in 1..255.
    """
    arrays = {obj_id: np.asarray(mask) for obj_id, mask in masks.items()}
    if len({(array.shape, array.dtype.kind) for array in arrays.values()}) != 1:
        found = sorted({f"{array.dtype} {list(array.shape)}" for array in arrays.values()})
        raise InputError(f"a label image needs masks of one size and kind, not {found}")
    first = next(iter(arrays.values()))
    if first.ndim != 2:
        raise InputError(f"a label image needs masks [H, W], not {list(first.shape)}")
    labels = np.zeros(first.shape, np.uint8)
    highest = np.zeros(first.shape, np.float32)
    for obj_id, array in arrays.items():
        if not 1 <= obj_id <= 255:
            raise InputError(f"object id {obj_id} cannot be stored in a PNG: it must be in 1..255")
        if array.dtype.kind == "f":
            inside = array > highest
            highest[inside] = array[inside]
        else:
            inside = array != 0
        labels[inside] = obj_id
    return labels


def write_labels(path: str | Path, labels: npt.NDArray[np.uint8]) -> None:
    """Writes object ids, uint8 `[H, W]`, as a PNG with the DAVIS palette, whole or not at all."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette(davis_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_whole(Path(path), buffer.getvalue())


def read_labels(path: str | Path) -> npt.NDArray[np.uint8]:
    """The object ids `[H, W]` of a PNG that `write_labels` wrote."""
    with Image.open(path) as image:
        return np.array(image)


class MaskPngWriter:
    """Writes one label image a frame, `00000.png` and so on, into `folder`, which it makes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, frame_idx: int) -> Path:
        """Where the label image of a frame is, or would be."""
        return self.folder / f"{frame_idx:05d}.png"

    def write(self, frame_idx: int, masks: Mapping[int, Any]) -> npt.NDArray[np.uint8]:
        """Writes and returns the `label_image` of a frame's masks or logits `[H, W]`.

        Raises:
            InputError: as `label_image`.
            OSError: the file cannot be written.
        """
        labels = label_image(masks)
        write_labels(self.path(frame_idx), labels)
        return labels


class TrackJsonWriter:
    """Writes the objects of each frame into a JSON document, frame by frame.

    The document holds `meta`, then `frames`, in the order written, each
    `{"frame", "objects": [{"id", "rle", "box", "area", "score"}]}` with a COCO RLE, a box
    `[x, y, width, height]` (null for an empty mask) and a score in 0..1 (null if unknown), and
    last `complete`: false if an error or the user ended the writing. Frames of a live source have
    their `time`, too, in seconds. The file takes its name on `close()`, which leaving the `with`
    block calls even after an error, so that it is always valid.

    Args:
        path: the file; one that is there is replaced.
        meta: what comes before the frames, such as `video` and `model`.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any]) -> None:
        self.path = Path(path)
        head = json.dumps(dict(meta), allow_nan=False)
        self._part = part_path(self.path)
        self._file: IO[str] | None = self._part.open("w", encoding="utf-8")
        self._file.write(head[:-1] + (", " if meta else "") + '"frames": [')
        self._empty = True

    def write(
        self,
        frame_idx: int,
        masks: Mapping[int, Any],
        scores: Mapping[int, float] | None = None,
        time: float | None = None,
    ) -> None:
        """Appends a frame.

        Args:
            frame_idx: its number in the video.
            masks: object id to mask, bool `[H, W]`.
            scores: object id to the probability that the object is visible.
            time: seconds since the first frame, where frames may be missing.
        """
        if self._file is None:
            raise InputError(f"{self.path} has been closed")
        objects = []
        for obj_id, mask in masks.items():
            score = scores.get(obj_id) if scores else None
            objects.append(
                {
                    "id": obj_id,
                    "rle": encode_rle(mask),
                    "box": box_from_mask(mask),
                    "area": int(np.count_nonzero(mask)),
                    "score": None if score is None else round(float(score), 6),
                }
            )
        shown = {} if time is None else {"time": round(time, 6)}
        entry = json.dumps({"frame": frame_idx, **shown, "objects": objects}, allow_nan=False)
        # One call, so that an interruption falls before or after the entry.
        self._file.write(("\n" if self._empty else ",\n") + entry)
        self._empty = False

    def close(self, complete: bool = True) -> None:
        """Ends the document and gives the file its name. May be called twice."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            with file:
                file.write(f'\n], "complete": {json.dumps(complete)}}}\n')
            self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(complete=error is None)
