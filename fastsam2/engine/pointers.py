"""Object pointers as tokens of memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsam2.engine.memory_bank import MemorySelection
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.modeling.sam2_utils import get_1d_sine_pe

__all__ = ["pointer_tokens"]


def pointer_tokens(model: SAM2Base, selection: MemorySelection) -> tuple[Tensor, Tensor]:
    """The pointers that are read, and their positions, `[P, B, mem_dim]` each.

    A pointer is as wide as several memory tokens, and is cut into that many. B is 1, or as many
    objects as the outputs that were selected stand for.
    """
    device, dtype = model.device, model.dtype
    if not selection.pointers:
        nothing = torch.zeros(0, 1, model.mem_dim, device=device, dtype=dtype)
        return nothing, nothing
    distances, pointers = zip(*selection.pointers, strict=True)
    pieces = model.hidden_dim // model.mem_dim
    tokens = torch.stack(pointers).to(device, dtype)
    tokens = tokens.unflatten(-1, (pieces, model.mem_dim)).transpose(1, 2).flatten(0, 1)
    place = _positions(model, distances, selection.pointer_span)
    place = place.repeat_interleave(pieces, dim=0).unsqueeze(1)
    return tokens, place.expand_as(tokens)


def _positions(model: SAM2Base, distances: Sequence[int], span: int) -> Tensor:
    """Codes `[n, mem_dim]` of how far away each pointer's frame is."""
    device, dtype = model.device, model.dtype
    if not model.add_tpos_enc_to_obj_ptrs:
        return torch.zeros(len(distances), model.mem_dim, device=device, dtype=dtype)
    width = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
    distance = torch.tensor(distances, dtype=torch.float32, device=device)
    return model.obj_ptr_tpos_proj(get_1d_sine_pe(distance / span, width).to(dtype))
