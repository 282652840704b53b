"""Attention to a paged memory through PyTorch's fused attention, which stores no logits.

The path of GPUs that the Triton kernels do not run on.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.memory_attention.paged_memory import PagedMemory
from fastsam2_kernels.rotary import rotate

__all__ = ["memory_attention_sdpa"]


def memory_attention_sdpa(
    q: Tensor, memory: PagedMemory, cos: Tensor, sin: Tensor, scale: float
) -> Tensor:
    """Compute `op.memory_attention` one object after another."""
    out = q.new_zeros(*q.shape[:2], memory.latents.shape[2])
    rotated = rotate(q, cos, sin)
    for i in range(len(q)):
        k, v = memory.of(i)
        if len(k):
            out[i] = F.scaled_dot_product_attention(
                rotated[i][None, None], k[None, None], v[None, None], scale=scale
            )[0, 0]
    return out
