"""Attention to a paged memory in plain PyTorch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.memory_attention.paged_memory import PagedMemory
from fastsam2_kernels.rotary import rotate

__all__ = ["memory_attention_reference"]


def memory_attention_reference(
    q: Tensor, memory: PagedMemory, cos: Tensor, sin: Tensor, scale: float
) -> Tensor:
    """Specification of `op.memory_attention`; same arguments."""
    rotated = rotate(q, cos, sin)
    out = []
    for i in range(len(q)):
        k, v = memory.of(i)
        # With no memory the weights are empty, and their product with it is zero.
        out.append((rotated[i] @ k.mT * scale).softmax(-1) @ v)
    return torch.stack(out) if out else q.new_zeros(*q.shape[:2], memory.latents.shape[2])
