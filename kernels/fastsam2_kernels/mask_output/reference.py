"""Masks at the size of the video in plain PyTorch: the specification."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "RunLengths",
    "mask_bits_reference",
    "mask_bool_reference",
    "mask_runs_reference",
    "runs_from_changes",
]


class RunLengths(NamedTuple):
    """COCO run lengths of N masks: columns from left to right, each downwards, zeros first.

    The runs of mask i are `counts[offsets[i] : offsets[i + 1]]`; the first is 0 where the first
    pixel is set, and they add up to H * W.
    """

    counts: Tensor  #: int32 [R]
    offsets: Tensor  #: int64 [N + 1]

    def tolist(self) -> list[list[int]]:
        """The runs of each mask, copied to the host."""
        counts, offsets = self.counts.tolist(), self.offsets.tolist()
        return [counts[a:b] for a, b in pairwise(offsets)]


def mask_bool_reference(logits: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """[N, h, w] to bool [N, H, W]; half-precision logits are interpolated in float32."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    up = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)
    return up[:, 0] > threshold


def mask_bits_reference(mask_nhw: Tensor) -> Tensor:
    """Bool [N, H, W] to uint8 [N, H, ceil(W / 8)], the leftmost of 8 pixels in the highest bit."""
    padded = F.pad(mask_nhw, (0, -mask_nhw.shape[-1] % 8)).unflatten(-1, (-1, 8))
    weights = 2 ** torch.arange(7, -1, -1, device=mask_nhw.device)
    return (padded * weights).sum(-1).to(torch.uint8)


def mask_runs_reference(mask_nhw: Tensor) -> RunLengths:
    """Bool [N, H, W] to run lengths."""
    n, height, width = mask_nhw.shape
    # Whether a pixel differs from the one before it in column-major order; 0 lies before the first.
    before = mask_nhw.roll(1, 1)
    before[:, 0] = F.pad(mask_nhw[:, -1], (1, 0))[:, :-1]
    image, y, x = (mask_nhw ^ before).nonzero().unbind(1)
    order = (image * (width * height) + x * height + y).sort().values
    offsets = torch.bincount(image, minlength=n).cumsum(0)
    offsets = F.pad(offsets, (1, 0)) + torch.arange(n + 1, device=mask_nhw.device)
    # Each mask has one entry more than changes: its end.
    changes = order.new_empty(len(order) + n)
    is_end = torch.zeros_like(changes, dtype=torch.bool)
    is_end[offsets[1:] - 1] = True
    changes[~is_end] = order % (height * width)
    return runs_from_changes(changes, offsets, height * width)


def runs_from_changes(changes: Tensor, offsets: Tensor, n_pixels: int) -> RunLengths:
    """Run lengths from the positions at which runs begin; the last entry of a mask is set here."""
    changes[offsets[1:] - 1] = n_pixels
    counts = changes.diff(prepend=changes.new_zeros(1))
    counts[offsets[:-1]] = changes[offsets[:-1]]
    return RunLengths(counts.to(torch.int32), offsets)
