"""Clean-up of mask logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.connected_components import connected_components

__all__ = ["fill_holes"]


def fill_holes(masks: Tensor, max_area: int) -> Tensor:
    """Turn background regions of at most `max_area` pixels in logits `[N, 1, H, W]` to 0.1."""
    labels, areas = connected_components(masks <= 0)
    return torch.where((labels > 0) & (areas <= max_area), 0.1, masks)
