"""Schedules for the CPU: blocks in float32, flash attention in half precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.memory_attention.paged_memory import PagedMemory
from fastsam2_kernels.rotary import rotate

__all__ = ["memory_attention_cpu"]

_BLOCK_Q = 512
_BLOCK_K = 1024


def memory_attention_cpu(
    q: Tensor, memory: PagedMemory, cos: Tensor, sin: Tensor, scale: float
) -> Tensor:
    """Compute `op.memory_attention` with schedules that suit a CPU."""
    out = q.new_zeros(*q.shape[:2], memory.latents.shape[2])
    rotated = rotate(q, cos, sin)
    for i in range(len(q)):
        if q.dtype in (torch.float32, torch.float64):
            _attend_in_blocks(rotated[i] * scale, memory.pieces(i), out[i])
        else:
            k, v = memory.of(i)
            if len(k):
                out[i] = _flash(rotated[i], k, v, scale)
    return out


def _attend_in_blocks(q: Tensor, pieces: list[tuple[Tensor, Tensor]], out: Tensor) -> None:
    """Attend with an online softmax: logits of a block stay in cache, and products are M wide.

    `scaled_dot_product_attention` needs values as wide as the keys for its fast path.
    """
    blocks = [
        block
        for k, v in pieces
        if len(k)
        for block in zip(k.split(_BLOCK_K), v.split(_BLOCK_K), strict=True)
    ]
    if not blocks:
        return
    for b_q, b_out in zip(q.split(_BLOCK_Q), out.split(_BLOCK_Q), strict=True):
        largest = b_q.new_full((len(b_q), 1), float("-inf"))
        total = b_q.new_zeros(len(b_q), 1)
        for k, v in blocks:
            weights = b_q @ k.mT
            largest, before = torch.maximum(largest, weights.amax(1, keepdim=True)), largest
            weights.sub_(largest).exp_()
            shrink = (before - largest).exp_()
            total.mul_(shrink).add_(weights.sum(1, keepdim=True))
            b_out.mul_(shrink).addmm_(weights, v)
        b_out.div_(total)


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend through PyTorch's flash attention, with values padded to the width of the keys.

    PyTorch leaves its flash path for other widths, and half-precision products in blocks would
    round the logits.
    """
    width = v.shape[1]
    dim = max(q.shape[1], width)
    q, k, v = (F.pad(x, (0, dim - x.shape[1]))[None, None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[0, 0, :, :width]
