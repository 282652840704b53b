"""Writers of tracking results: overlay video, label images and a JSON document."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastsam2.data.files import write_whole
from fastsam2.data.palette import davis_palette
from fastsam2.data.rle import EncodedMask, encode_mask
from fastsam2.data.video_writer import OverlayVideoWriter
from fastsam2.errors import InputError
from fastsam2_kernels.mask_output import mask_output

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
    """Label image `[H, W]`: the object id of each pixel, 0 in the background.

    Where objects overlap, a pixel goes to the highest logit if `masks` holds logits (floating
    point, set where positive), and to the last object if it holds bool masks.

    Raises:
        InputError: no masks, masks of several sizes or dtypes, or an id that is not in 1..255.
    """
    arrays = {obj_id: np.asarray(mask) for obj_id, mask in masks.items()}
    if len({(array.shape, array.dtype.kind) for array in arrays.values()}) != 1:
        found = sorted({f"{array.dtype} {list(array.shape)}" for array in arrays.values()})
        raise InputError(f"a label image needs masks of one size and kind, not {found}")
    for obj_id in arrays:
        if not 1 <= obj_id <= 255:
            raise InputError(f"object id {obj_id} cannot be stored in a PNG: it must be in 1..255")
    stack = np.stack(list(arrays.values()))
    if stack.ndim != 3:
        raise InputError(f"a label image needs masks [H, W], not {list(stack.shape[1:])}")
    if stack.dtype.kind == "f":
        logits = torch.from_numpy(stack)
        numbers = mask_output(logits, (stack.shape[1], stack.shape[2])).labels.numpy()
    else:
        pixels = stack if stack.dtype == np.bool_ else stack != 0
        numbers = (pixels * np.arange(1, len(stack) + 1, dtype=np.uint8)[:, None, None]).max(0)
    return np.array([0, *arrays], np.uint8)[numbers]


def write_labels(path: str | Path, labels: npt.NDArray[np.uint8]) -> None:
    """Write a label image, uint8 `[H, W]`, as a PNG with the DAVIS palette, atomically."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette(davis_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_whole(Path(path), buffer.getvalue())


def read_labels(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read a label image `[H, W]` that `write_labels` wrote."""
    with Image.open(path) as image:
        return np.array(image)


class MaskPngWriter:
    """Write one label image a frame, `00000.png` and so on, into `folder`, which is created."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, frame_idx: int) -> Path:
        """Path of the label image of a frame."""
        return self.folder / f"{frame_idx:05d}.png"

    def write(self, frame_idx: int, masks: Mapping[int, Any]) -> npt.NDArray[np.uint8]:
        """Write and return the `label_image` of a frame's masks or logits `[H, W]`.

        Raises:
            InputError: see `label_image`.
            OSError: the file cannot be written.
        """
        labels = label_image(masks)
        write_labels(self.path(frame_idx), labels)
        return labels


class TrackJsonWriter:
    """Write the objects of each frame into a JSON document, frame by frame.

    The document holds `meta`, then `frames`, in the order written, each
    `{"frame", "objects": [{"id", "rle", "box", "area", "score"}]}` with a COCO RLE, a box
    `[x, y, width, height]` (null for an empty mask) and a score in 0..1 (null if unknown), and
    last `complete`: false if an error or the user ended the writing. Frames of a live source also
    have their `time` in seconds. The file is valid JSON after each frame, with `complete` false
    until `close()`, so that it can be read if the program is killed or the disk is full.

    Args:
        path: the file; an existing one is replaced.
        meta: entries before the frames, such as `video` and `model`.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any]) -> None:
        self.path = Path(path)
        head = json.dumps(dict(meta), allow_nan=False)
        self._file: IO[bytes] | None = self.path.open("wb", buffering=0)
        self._end = 0  # length without the end of the document
        self._separator = "\n"
        self._append(head[:-1] + (", " if meta else "") + '"frames": [', complete=False)

    def write(
        self,
        frame_idx: int,
        masks: Mapping[int, Any],
        scores: Mapping[int, float] | None = None,
        time: float | None = None,
    ) -> None:
        """Append a frame.

        Args:
            frame_idx: index of the frame in the video.
            masks: object id to mask, bool `[H, W]`, or to its `EncodedMask`.
            scores: object id to the probability that the object is visible.
            time: seconds since the first frame, for sources that may skip frames.

        Raises:
            InputError: the document is closed, or a mask is of another shape or dtype.
        """
        if self._file is None:
            raise InputError(f"{self.path} has been closed")
        objects = []
        for obj_id, mask in masks.items():
            score = scores.get(obj_id) if scores else None
            encoded = mask if isinstance(mask, EncodedMask) else encode_mask(mask)
            objects.append(
                {
                    "id": obj_id,
                    **encoded._asdict(),
                    "score": None if score is None else round(float(score), 6),
                }
            )
        shown = {} if time is None else {"time": round(time, 6)}
        entry = json.dumps({"frame": frame_idx, **shown, "objects": objects}, allow_nan=False)
        self._append(self._separator + entry, complete=False)
        self._separator = ",\n"

    def _append(self, text: str, *, complete: bool) -> None:
        """Replace the end of the document by `text` and a new end.

        If that fails, the document is as before.
        """
        assert self._file is not None
        content = text.encode()
        try:
            self._overwrite(content, complete=complete)
        except BaseException:
            self._overwrite(b"", complete=False)
            raise
        self._end += len(content)

    def _overwrite(self, content: bytes, *, complete: bool) -> None:
        assert self._file is not None
        rest = memoryview(content + f'\n], "complete": {json.dumps(complete)}}}\n'.encode())
        self._file.seek(self._end)
        while rest:  # a disk that is almost full takes a part
            rest = rest[self._file.write(rest) :]
        self._file.truncate()

    def close(self, complete: bool = True) -> None:
        """End the document. Later calls do nothing."""
        if self._file is None:
            return
        try:
            self._append("", complete=complete)
        finally:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(complete=error is None)
