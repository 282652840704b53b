"""Masks, labels, areas and boxes at video size in plain PyTorch: the specification."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.mask_output.bits import areas_of, boxes_of, pack_bits

__all__ = ["MaskOutput", "mask_output_reference"]


class MaskOutput(NamedTuple):
    """Masks of N objects at video size."""

    bits: Tensor  #: uint8 `[N, H, ceil(W / 8)]`, as `numpy.packbits(..., axis=-1)` writes
    labels: Tensor  #: int16 `[H, W]`, 1 + index of the object with the highest logit, or 0
    areas: Tensor  #: int64 `[N]`, number of set pixels
    boxes: Tensor  #: int32 `[N, 4]`, outermost set pixels (x0, y0, x1, y1); -1 if there are none


def mask_output_reference(
    logits: Tensor, height: int, width: int, threshold: float, non_overlap: bool
) -> MaskOutput:
    """Compute masks of `height` x `width` from logits `[N, h, w]`, and what is derived from them.

    Logits are interpolated in at least float32.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    labels = logits.new_zeros(height, width, dtype=torch.int16)
    masks = logits.new_empty(len(logits), height, width, dtype=torch.bool)
    if len(logits):
        size = (height, width)
        up = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        masks = up > threshold
        best = torch.where(masks, up, -torch.inf).argmax(0)
        labels = torch.where(masks.any(0), best + 1, 0).to(torch.int16)
    if non_overlap:
        masks = labels == torch.arange(1, len(logits) + 1, device=logits.device)[:, None, None]
    bits = pack_bits(masks)
    return MaskOutput(bits, labels, areas_of(masks), boxes_of(bits))
