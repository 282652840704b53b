"""Attention to a paged memory in plain PyTorch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.rotary import turn

__all__ = ["memory_attention_reference", "memory_of"]


def memory_of(
    i: int,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
) -> tuple[Tensor, Tensor]:
    """Keys [T, D] and values [T, M] of all that object `i` reads, pointers last."""
    read, pointers = int(num_reads[i]), int(num_pointers[i])
    k = torch.cat([keys[reads[i, :read].long()].flatten(0, 1), pointer_keys[i, :pointers]])
    stored = latents[slots[i, :read].long()].flatten(0, 1).to(keys.dtype)
    v = torch.cat([stored, pointer_latents[i, :pointers]])
    return k, v


def memory_attention_reference(
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
    """The specification of `op.memory_attention`; same arguments."""
    turned = turn(q, cos, sin)
    memory = (keys, latents, slots, reads, num_reads, pointer_keys, pointer_latents, num_pointers)
    out = []
    for i in range(len(q)):
        k, v = memory_of(i, *memory)
        # Of no memory the weights are empty and their product with it is zero.
        out.append((turned[i] @ k.mT * scale).softmax(-1) @ v)
    return torch.stack(out) if out else q.new_zeros(*q.shape[:2], latents.shape[2])
