"""Schedule for the CPU: a tile is projected and rotated while it is in cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.rotary import rotate_into

__all__ = ["memory_keys_cpu"]

_TILE = 512  #: rows that a thread projects and rotates in its cache


def memory_keys_cpu(
    latents: Tensor,
    pos: Tensor,
    tpos: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    times: Tensor,
) -> Tensor:
    """Compute `op.memory_keys` in tiles. Keys of padding are zero here."""
    layers, dim, _ = weight.shape
    keys = weight.new_empty(layers, slots.shape[0], latents.shape[1], dim)
    rows = _TILE * torch.get_num_threads()
    tables = list(zip(cos.split(rows), sin.split(rows), strict=True))
    for read, (slot, time) in enumerate(zip(slots.tolist(), times.tolist(), strict=True)):
        if slot < 0:
            keys[:, read] = 0
            continue
        memory = (latents[slot].to(weight.dtype) + pos + tpos[time]).split(rows)
        for layer in range(layers):
            tiles = keys[layer, read].split(rows)
            for out, x, table in zip(tiles, memory, tables, strict=True):
                rotate_into(out, F.linear(x, weight[layer], bias[layer]), *table)
    return keys
