"""Clean-up of mask logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.connected_components import connected_components

__all__ = ["fill_holes", "small_regions"]


def small_regions(region: Tensor, max_area: float) -> Tensor:
    """Return the part of bool `region` `[..., H, W]` in connected components of at most `max_area`
    pixels."""
    _, areas = connected_components(region)
    return region & (areas <= max_area)


def fill_holes(masks: Tensor, max_area: float) -> Tensor:
    """Raise background regions of at most `max_area` pixels in logits `[N, 1, H, W]` to 0.1."""
    return torch.where(small_regions(masks <= 0, max_area), 0.1, masks)
