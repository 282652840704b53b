"""Bit-packed masks and their COCO run-length encoding, as `pycocotools` writes it.

A mask is read column by column and stored as the lengths of its runs, beginning with a run of
zeros (of length 0 if the first pixel is set). The compressed form writes each length, from the
fourth on as the difference to the one two before it, in groups of 5 bits, lowest first; bit 5 says
that another group follows, and 48 is added to make it printable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsam2.errors import InputError
from fastsam2_kernels.mask_output import (
    RunLengths,
    areas_of,
    boxes_of,
    pack_bits,
    run_lengths,
    unpack_bits,
)

__all__ = [
    "EncodedMask",
    "PackedMasks",
    "area",
    "box_from_mask",
    "decode_rle",
    "encode_mask",
    "encode_rle",
    "rle_counts",
    "rle_from_counts",
]

_GROUPS = 13  # enough groups of 5 bits for any 64-bit number


class EncodedMask(NamedTuple):
    """One mask as COCO stores it."""

    rle: dict[str, Any]  #: `{"size": [H, W], "counts": str}`
    box: list[int] | None  #: `[x, y, width, height]` in pixels; None if the mask is empty
    area: int  #: number of set pixels


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """N masks of one size, one bit a pixel, on any device, with their areas and boxes.

    Run lengths are computed from the bits when first read; on a GPU this waits for the device.
    """

    bits: Tensor  #: uint8 `[N, H, ceil(W / 8)]`, as `numpy.packbits(..., axis=-1)` writes
    areas: Tensor  #: number of set pixels, int64 `[N]`
    boxes: Tensor  #: outermost set pixels (x0, y0, x1, y1), int32 `[N, 4]`; -1 if there are none
    width: int  #: W

    @classmethod
    def of(cls, masks: Tensor) -> PackedMasks:
        """Pack bool `[N, H, W]`."""
        bits = pack_bits(masks)
        return cls(bits, areas_of(masks), boxes_of(bits), masks.shape[-1])

    @cached_property
    def masks(self) -> Tensor:
        """Bool `[N, H, W]`."""
        return unpack_bits(self.bits, self.width)

    @cached_property
    def runs(self) -> RunLengths:
        """Run lengths."""
        return run_lengths(self.bits, self.width)

    def rle(self) -> list[dict[str, Any]]:
        """COCO RLE of each mask, `{"size": [H, W], "counts": str}`."""
        counts, offsets = self.runs.counts.cpu().numpy(), self.runs.offsets.tolist()
        return [rle_from_counts(counts[a:b], self.runs.size) for a, b in pairwise(offsets)]

    def encode(self) -> list[EncodedMask]:
        """RLE, box and area of each mask."""
        found = zip(self.rle(), _coco_boxes(self.boxes), self.areas.tolist(), strict=True)
        return [EncodedMask(*entry) for entry in found]


def _coco_boxes(boxes: Tensor) -> list[list[int] | None]:
    return [
        [x0, y0, x1 - x0 + 1, y1 - y0 + 1] if x1 >= 0 else None for x0, y0, x1, y1 in boxes.tolist()
    ]


def _pixels(mask: Any) -> Tensor:
    """Return a mask as bool `[1, H, W]`."""
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise InputError(
            f"a mask must be a bool array [H, W], not {array.dtype} {list(array.shape)}"
        )
    # Comparing bool to 0 would convert every pixel to int64.
    pixels = array if array.dtype == np.bool_ else array != 0
    return torch.from_numpy(pixels[None])


def encode_mask(mask: Any) -> EncodedMask:
    """RLE, box and area of `mask` (bool or integer `[H, W]`).

    Raises:
        InputError: another shape or dtype.
    """
    return PackedMasks.of(_pixels(mask)).encode()[0]


def rle_counts(mask: Any) -> list[int]:
    """Run lengths of `mask` (bool or integer `[H, W]`), column by column, zeros first.

    Raises:
        InputError: another shape or dtype.
    """
    pixels = _pixels(mask)
    return run_lengths(pack_bits(pixels), pixels.shape[-1]).tolist()[0]


def encode_rle(mask: Any) -> dict[str, Any]:
    """COCO RLE `{"size": [H, W], "counts": str}` of `mask` (bool or integer `[H, W]`).

    Raises:
        InputError: another shape or dtype.
    """
    return rle_from_counts(rle_counts(mask), np.shape(mask))


def rle_from_counts(counts: Any, size: Sequence[int]) -> dict[str, Any]:
    """Compressed RLE from the run lengths of a mask of `size` (H, W)."""
    return {"size": list(size), "counts": _compress(np.asarray(counts, np.int64))}


def decode_rle(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Mask, bool `[H, W]`, of a run-length encoding with compressed or plain counts.

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
    """Number of set pixels."""
    return int(_counts_of(rle)[1::2].sum())


def box_from_mask(mask: Any) -> list[int] | None:
    """COCO box `[x, y, width, height]` of `mask` (bool or integer `[H, W]`); None if it is empty.

    Raises:
        InputError: another shape or dtype.
    """
    return _coco_boxes(boxes_of(pack_bits(_pixels(mask))))[0]


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
