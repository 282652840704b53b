"""Masks and labels at video size in plain PyTorch: the specification."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.mask_output.bits import pack_bits

__all__ = ["MaskOutput", "mask_output_reference"]


class MaskOutput(NamedTuple):
    """Masks of N objects at video size."""

    bits: Tensor  #: uint8 `[N, H, ceil(W / 8)]`, as `numpy.packbits(..., axis=-1)` writes
    labels: Tensor  #: int16 `[H, W]`, 1 + index of the object with the highest logit, or 0


def mask_output_reference(
    logits: Tensor, height: int, width: int, threshold: float, non_overlap: bool
) -> MaskOutput:
    """Compute masks of `height` x `width` and labels from logits `[N, h, w]`.

    Logits are interpolated in at least float32.
    """
    if not len(logits):
        bits = logits.new_zeros(0, height, -(-width // 8), dtype=torch.uint8)
        return MaskOutput(bits, logits.new_zeros(height, width, dtype=torch.int16))
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    up = F.interpolate(logits[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    masks = up > threshold
    best = torch.where(masks, up, -torch.inf).argmax(0)
    labels = torch.where(masks.any(0), best + 1, 0).to(torch.int16)
    if non_overlap:
        masks = labels == torch.arange(1, len(logits) + 1, device=logits.device)[:, None, None]
    return MaskOutput(pack_bits(masks), labels)
