"""Keys of a paged memory in plain PyTorch: the specification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.rotary import rotate

__all__ = ["memory_keys_reference"]


def memory_keys_reference(
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
    """Specification of `op.memory_keys`; same arguments. Keys of padding are zero here."""
    layers, dim, _ = weight.shape
    valid = slots >= 0
    memory = latents[slots[valid].long()].to(weight.dtype)
    memory = memory + pos + tpos[times[valid].long()].unsqueeze(1)
    # One matrix product for all layers: [r, HW, L * D].
    projected = F.linear(memory, weight.flatten(0, 1), bias.flatten())
    rotated = rotate(projected.unflatten(-1, (layers, dim)).movedim(-2, 0), cos, sin)
    keys = rotated.new_zeros(layers, slots.shape[0], latents.shape[1], dim)
    return keys.index_copy(1, valid.nonzero()[:, 0], rotated)
