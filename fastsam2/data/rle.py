"""COCO run-length encoding of masks, as `pycocotools` writes it, in NumPy.

A mask is read column by column and stored as the lengths of its runs, beginning with a run of
zeros (of length 0 if the first pixel is set). The compressed form writes each length, from the
third on as the difference to the one two before it, in groups of 5 bits, lowest first; bit 5 says
that another group follows, and 48 is added to make it printable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastsam2.errors import InputError

__all__ = ["area", "box_from_mask", "decode_rle", "encode_rle", "rle_counts", "rle_from_counts"]

_GROUPS = 13  # enough groups of 5 bits for any 64-bit number


def _as_mask(mask: Any) -> npt.NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise InputError(
            f"a mask must be a bool array [H, W], not {array.dtype} {list(array.shape)}"
        )
    return array if array.dtype == np.bool_ else array != 0


def rle_counts(mask: Any) -> list[int]:
    """Lengths of the runs of `mask` (bool or integer `[H, W]`), column by column, zeros first.

    Raises:
        InputError: another shape or dtype.
    """
    return _counts(_as_mask(mask)).tolist()


def _counts(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    counts = np.diff(edges)
    starts_set = pixels.size > 0 and pixels[0]
    return np.concatenate([[0], counts]) if starts_set else counts


def encode_rle(mask: Any) -> dict[str, Any]:
    """`mask` (bool or integer `[H, W]`) as `{"size": [H, W], "counts": str}`.

    Raises:
        InputError: another shape or dtype.
    """
    array = _as_mask(mask)
    return rle_from_counts(_counts(array), array.shape)


def rle_from_counts(counts: Any, size: tuple[int, ...]) -> dict[str, Any]:
    """The runs of a mask of `size` (H, W), as `rle_counts` lists them, in compressed form."""
    return {"size": list(size), "counts": _compress(np.asarray(counts, np.int64))}


def decode_rle(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """The mask, bool `[H, W]`, of a run-length encoding with compressed or plain counts.

    Raises:
        InputError: the counts are malformed or do not fit the size.
    """
    height, width = rle["size"]
    counts = _counts_of(rle)
    if (counts < 0).any() or counts.sum() != height * width:
        raise InputError(f"the runs of this mask cover {counts.sum()} pixels, not {height}x{width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def area(rle: Mapping[str, Any]) -> int:
    """Number of pixels set."""
    return int(_counts_of(rle)[1::2].sum())


def box_from_mask(mask: Any) -> list[int] | None:
    """The box `[x, y, width, height]` around `mask` in pixels, as COCO has it; None if it is empty.

    Raises:
        InputError: not a bool or integer `[H, W]`.
    """
    array = _as_mask(mask)
    columns = np.flatnonzero(array.any(axis=0))
    if not len(columns):
        return None
    rows = np.flatnonzero(array.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _compress(counts: npt.NDArray[np.int64]) -> str:
    values = counts.copy()
    values[3:] -= counts[1:-2]
    groups = values[:, None] >> (5 * np.arange(_GROUPS))
    # A group is the last one once only the sign is left, and its top bit shows that sign.
    rest = groups >> 5
    sign = (groups & 16) != 0
    last = np.argmax(rest == np.where(sign, -1, 0), axis=1)
    used = np.arange(_GROUPS) <= last[:, None]
    codes = (groups & 31) + 48 + 32 * (np.arange(_GROUPS) < last[:, None])
    return codes[used].astype(np.uint8).tobytes().decode("ascii")


def _counts_of(rle: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    counts: str | bytes | Sequence[int] = rle["counts"]
    if not isinstance(counts, (str, bytes)):
        return np.asarray(counts, np.int64)
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    ends = np.flatnonzero((codes & 32) == 0)
    if (codes < 0).any() or (codes > 63).any() or not len(ends) or ends[-1] != len(codes) - 1:
        raise InputError(f"not the compressed counts of a mask: {text[:40]!r}")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _GROUPS:
        raise InputError(f"a run of more than 64 bits in the counts of a mask: {text[:40]!r}")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, np.left_shift(1, 5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
