"""Clean-up of mask logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.connected_components import connected_components

__all__ = ["fill_holes", "mask_boxes", "small_regions"]


def small_regions(region: Tensor, max_area: float) -> Tensor:
    """The pixels of bool `region` `[..., H, W]` in components of at most `max_area` pixels."""
    _, areas = connected_components(region)
    return region & (areas <= max_area)


def fill_holes(masks: Tensor, max_area: float) -> Tensor:
    """Raise background regions of at most `max_area` pixels in logits `[N, 1, H, W]` to 0.1."""
    return torch.where(small_regions(masks <= 0, max_area), 0.1, masks)


def mask_boxes(masks: Tensor) -> Tensor:
    """Corner pixels (x0, y0, x1, y1), inclusive, of bool `masks` `[..., H, W]`, int32 `[..., 4]`;
    (W, H, -1, -1) of an empty mask."""
    first, last = [], []
    for occupied in (masks.any(-2), masks.any(-1)):
        size = occupied.shape[-1]
        index = torch.arange(size, device=masks.device, dtype=torch.int32)
        first.append(torch.where(occupied, index, size).amin(-1))
        last.append(torch.where(occupied, index, -1).amax(-1))
    return torch.stack((*first, *last), dim=-1)
