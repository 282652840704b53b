"""Schedules for the CPU: blocks in float32, flash attention in half precision."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.memory_attention.reference import memory_of
from fastsam2_kernels.rotary import turn

__all__ = ["memory_attention_cpu"]

_BLOCK_Q = 512
_BLOCK_K = 1024


def memory_attention_cpu(
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
    """As `op.memory_attention`, in the time a CPU needs."""
    out = q.new_zeros(*q.shape[:2], latents.shape[2])
    turned = turn(q, cos, sin)
    memory = (keys, latents, slots, reads, num_reads, pointer_keys, pointer_latents, num_pointers)
    for i in range(len(q)):
        if q.dtype in (torch.float32, torch.float64):
            _attend_in_blocks(turned[i] * scale, list(_blocks(i, *memory)), out[i])
        else:
            k, v = memory_of(i, *memory)
            if len(k):
                out[i] = _flash(turned[i], k, v, scale)
    return out


def _blocks(
    i: int,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values that object `i` reads, each memory converted once."""
    read, pointers = int(num_reads[i]), int(num_pointers[i])
    for row, slot in zip(reads[i, :read].tolist(), slots[i, :read].tolist(), strict=True):
        values = latents[slot].to(keys.dtype)
        yield from zip(keys[row].split(_BLOCK_K), values.split(_BLOCK_K), strict=True)
    if pointers:
        k, v = pointer_keys[i, :pointers], pointer_latents[i, :pointers]
        yield from zip(k.split(_BLOCK_K), v.split(_BLOCK_K), strict=True)


def _attend_in_blocks(q: Tensor, memory: list[tuple[Tensor, Tensor]], out: Tensor) -> None:
    """Online softmax: logits of a block stay in cache, and products are M wide.

    `scaled_dot_product_attention` would take values as wide as the keys, or its slow path.
    """
    if not memory:
        return
    for b_q, b_out in zip(q.split(_BLOCK_Q), out.split(_BLOCK_Q), strict=True):
        largest = b_q.new_full((len(b_q), 1), float("-inf"))
        total = b_q.new_zeros(len(b_q), 1)
        for k, v in memory:
            weights = b_q @ k.mT
            largest, before = torch.maximum(largest, weights.amax(1, keepdim=True)), largest
            weights.sub_(largest).exp_()
            shrink = (before - largest).exp_()
            total.mul_(shrink).add_(weights.sum(1, keepdim=True))
            b_out.mul_(shrink).addmm_(weights, v)
        b_out.div_(total)


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Values are padded to the width of the keys: with other widths PyTorch leaves its flash path,
    and half-precision products in blocks would round the logits."""
    width = v.shape[1]
    dim = max(q.shape[1], width)
    q, k, v = (F.pad(x, (0, dim - x.shape[1]))[None, None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[0, 0, :, :width]
