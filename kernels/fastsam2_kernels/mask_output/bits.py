"""Bit-packed masks, and the run lengths, boxes and areas derived from them.

The layout is that of `numpy.packbits(..., axis=-1)`: the leftmost of 8 pixels is the highest bit,
and a row is padded with zeros to whole bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RunLengths", "pack_bits", "run_lengths", "unpack_bits"]


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

    @cached_property
    def _set_runs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mask index, first pixel and length of each run of set pixels."""
        n_runs, n_masks = len(self.counts), len(self.offsets) - 1
        device = self.counts.device
        masks = torch.arange(n_masks, device=device).repeat_interleave(
            self.offsets.diff(), output_size=n_runs
        )
        is_set = (torch.arange(n_runs, device=device) - self.offsets[masks]) % 2 == 1
        # The runs of each mask add up to H * W.
        start = self.counts.cumsum(0) - self.counts - masks * (self.size[0] * self.size[1])
        return masks[is_set], start[is_set], self.counts[is_set]

    @property
    def areas(self) -> Tensor:
        """Number of set pixels of each mask, int64 `[N]`."""
        masks, _, length = self._set_runs
        return self.offsets.new_zeros(len(self.offsets) - 1).index_add(0, masks, length)

    @property
    def boxes(self) -> Tensor:
        """Outermost set pixels (x0, y0, x1, y1) of each mask, int32 `[N, 4]`; -1 if it is empty."""
        height = self.size[0]
        masks, start, length = self._set_runs
        end = start + length - 1
        x0, x1 = start // height, end // height
        one_column = x0 == x1  # a longer run touches the bottom and the top edge
        y0 = torch.where(one_column, start % height, 0)
        y1 = torch.where(one_column, end % height, height - 1)
        # The minimum of negated coordinates is the negated maximum: one reduction serves both.
        signs = start.new_tensor([1, 1, -1, -1])
        corners = torch.stack((x0, y0, x1, y1), dim=1) * signs
        empty = corners.new_full((len(self.offsets) - 1, 4), height * self.size[1])
        boxes = empty.scatter_reduce(0, masks[:, None].expand(-1, 4), corners, "amin") * signs
        return boxes.where(boxes[:, 2:3] >= 0, -1).int()


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
