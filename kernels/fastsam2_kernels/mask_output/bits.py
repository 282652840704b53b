"""Bit-packed masks, and the areas, boxes and run lengths of masks.

Packed masks have the layout of `numpy.packbits(..., axis=-1)`: the leftmost of 8 pixels is the
highest bit, and a row is padded with zeros to whole bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RunLengths", "areas_of", "boxes_of", "pack_bits", "run_lengths", "unpack_bits"]


def pack_bits(masks: Tensor) -> Tensor:
    """Pack bool `[..., W]` into uint8 `[..., ceil(W / 8)]`."""
    if masks.device.type == "cpu":
        return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
    return _pack_on_device(masks)


def _pack_on_device(masks: Tensor) -> Tensor:
    padded = F.pad(masks.view(torch.uint8), (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (padded << _shifts(masks)).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, width: int) -> Tensor:
    """Unpack uint8 `[..., ceil(W / 8)]` to bool `[..., W]`."""
    if bits.device.type == "cpu":
        masks = np.unpackbits(bits.numpy(), axis=-1, count=width)
        return torch.from_numpy(masks.view(np.bool_))
    return _unpack_on_device(bits)[..., :width]


def _unpack_on_device(bits: Tensor) -> Tensor:
    return (bits[..., None] >> _shifts(bits) & 1).bool().flatten(-2)


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)


def areas_of(masks: Tensor) -> Tensor:
    """Count the set pixels of bool `[N, H, W]`, int64 `[N]`."""
    if masks.device.type == "cpu":  # NumPy counts bytes many times faster
        return torch.tensor([np.count_nonzero(x) for x in masks.numpy()], dtype=torch.int64)
    return masks.sum((1, 2))


def boxes_of(bits: Tensor) -> Tensor:
    """Find the outermost set pixels (x0, y0, x1, y1) of packed masks `[N, H, ceil(W / 8)]`.

    Returns:
        Int32 `[N, 4]`; -1 for an empty mask.
    """
    if bits.device.type == "cpu":
        rows = torch.from_numpy(np.bitwise_or.reduce(bits.numpy(), axis=2)) != 0
        columns = torch.from_numpy(np.unpackbits(np.bitwise_or.reduce(bits.numpy(), axis=1), -1))
        return _corners(rows, columns)
    return _corners((bits != 0).any(2), _unpack_on_device(bits).any(1))


def _corners(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the boxes of masks with set pixels in these rows `[N, H]` and columns `[N, W]`."""
    axes = columns.byte(), rows.byte()
    first = [x.argmax(1) for x in axes]
    last = [x.shape[1] - 1 - x.flip(1).argmax(1) for x in axes]
    return torch.stack([*first, *last], dim=1).where(rows.any(1, keepdim=True), -1).int()


@dataclass(frozen=True, eq=False)
class RunLengths:
    """COCO run lengths of N masks: column by column from left to right, zeros first.

    The runs of mask i are `counts[offsets[i] : offsets[i + 1]]`. They add up to H * W; the first is
    0 if the first pixel is set.
    """

    counts: Tensor  #: int64 `[R]`
    offsets: Tensor  #: int64 `[N + 1]`
    size: tuple[int, int]  #: (H, W)

    def tolist(self) -> list[list[int]]:
        """Return the run lengths of each mask, on the host."""
        counts, offsets = self.counts.tolist(), self.offsets.tolist()
        return [counts[a:b] for a, b in pairwise(offsets)]


def run_lengths(bits: Tensor, width: int) -> RunLengths:
    """Compute the run lengths of packed masks `[N, H, ceil(W / 8)]`; synchronizes with the device.

    The work is proportional to the length of the outlines: only words in which a pixel differs from
    the previous one are unpacked.
    """
    n, height, row_bytes = bits.shape
    # The pixel before the first one of a column is the last one of the column to its left.
    before = bits.roll(1, dims=1)
    last = bits[:, -1:]
    before[:, :1] = (last >> 1) | F.pad(last[..., :-1] << 7, (1, 0))
    changes = bits ^ before
    changes[:, :1, -1:] &= 0xFF << (-width % 8) & 0xFF
    words = F.pad(changes.flatten(), (0, -changes.numel() % 8)).view(-1, 8)
    word = words.view(torch.int64)[:, 0].nonzero()[:, 0]
    i, bit = _unpack_on_device(words[word]).nonzero().unbind(1)
    position = word[i] * 64 + bit
    row, x = position // (8 * row_bytes), position % (8 * row_bytes)
    n_pixels = height * width
    starts = row // height * n_pixels + x * height + row % height
    # The end of a mask and a run that starts at the first pixel of the next are a run of length 0.
    ends = torch.arange(1, n + 1, device=bits.device) * n_pixels
    edges = torch.cat((starts, ends)).sort().values
    offsets = F.pad(torch.searchsorted(edges, ends) + 1, (1, 0))
    return RunLengths(edges.diff(prepend=edges.new_zeros(1)), offsets, (height, width))
