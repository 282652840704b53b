"""Schedule for the CPU: a tile at a time, which stays in cache until it has been turned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.rotary import turn_into

__all__ = ["memory_keys_cpu"]

_TILE = 512  #: rows that a thread projects and turns in its cache


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
    """As `op.memory_keys`, in the time a CPU needs. Keys of padding are zero here."""
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
                turn_into(out, F.linear(x, weight[layer], bias[layer]), *table)
    return keys
