"""Attention to a paged memory where Triton's kernels do not run: PyTorch's own, which stores no
logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.memory_attention.reference import memory_of
from fastsam2_kernels.rotary import turn

__all__ = ["memory_attention_sdpa"]


def memory_attention_sdpa(
    q: Tensor,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> Tensor:
    """As `op.memory_attention`, one object after another."""
    out = q.new_zeros(*q.shape[:2], latents.shape[2])
    turned = turn(q, cos, sin)
    memory = (keys, latents, slots, reads, num_reads, pointer_keys, pointer_latents, num_pointers)
    for i in range(len(q)):
        k, v = memory_of(i, *memory)
        if len(k):
            attended = F.scaled_dot_product_attention(
                turned[i][None, None], k[None, None], v[None, None], scale=scale
            )
            out[i] = attended[0, 0]
    return out
