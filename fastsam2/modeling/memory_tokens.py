"""What is remembered of an object as the tokens that memory attention reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.sam2_utils import get_1d_sine_pe

if TYPE_CHECKING:
    from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["as_tokens", "memory_tokens"]


def memory_tokens(model: SAM2Base, selection: MemorySelection) -> tuple[Tensor, Tensor, int]:
    """Memory and its positions, `[M, B, mem_dim]` each, and how many of them are pointer tokens.

    B is 1, or as many objects as the outputs that were selected stand for.
    """
    device, dtype = model.device, model.dtype
    tokens, positions = [], []
    for t_pos, output in selection.frames:
        feature = output["maskmem_features"].to(device, dtype, non_blocking=True)
        place = output["maskmem_pos_enc"][-1].to(device, dtype, non_blocking=True)
        tokens.append(feature.flatten(2).permute(2, 0, 1))
        time = model.maskmem_tpos_enc[model.num_maskmem - t_pos - 1]
        positions.append(place.flatten(2).permute(2, 0, 1) + time)
    pointers, place = _pointer_tokens(model, selection)
    if len(pointers):
        tokens.append(pointers)
        positions.append(place)
    return torch.cat(tokens), torch.cat(positions), len(pointers)


def as_tokens(model: SAM2Base, pointers: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Pointers as tokens, and the tokens' positions, `[..., P, M]` each.

    A pointer is as wide as several memory tokens, and is cut into that many.

    Args:
        pointers: `[..., n, C]`.
        distances: how far away in time each is, in spans, float32 `[..., n]`.
    """
    pieces = model.hidden_dim // model.mem_dim
    tokens = pointers.unflatten(-1, (pieces, model.mem_dim)).flatten(-3, -2)
    if not model.add_tpos_enc_to_obj_ptrs:
        return tokens, tokens.new_zeros(*distances.shape[:-1], *tokens.shape[-2:])
    width = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
    codes = get_1d_sine_pe(distances, width).to(model.dtype)
    return tokens, model.obj_ptr_tpos_proj(codes).repeat_interleave(pieces, dim=-2)


def _pointer_tokens(model: SAM2Base, selection: MemorySelection) -> tuple[Tensor, Tensor]:
    """The pointers that one object reads, and their positions, `[P, B, M]` each.

    B is 1, or as many objects as the outputs that were selected stand for.
    """
    device, dtype = model.device, model.dtype
    if not selection.pointers:
        nothing = torch.zeros(0, 1, model.mem_dim, device=device, dtype=dtype)
        return nothing, nothing
    distances, pointers = zip(*selection.pointers, strict=True)
    stacked = torch.stack(pointers, dim=1).to(device, dtype)
    distance = torch.tensor([d / selection.pointer_span for d in distances], device=device)
    tokens, place = as_tokens(model, stacked, distance)
    tokens = tokens.transpose(0, 1)
    return tokens, place.reshape(-1, 1, model.mem_dim).expand_as(tokens)
