"""Which memory each object of a batch reads, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsam2.engine.memory_bank import MemorySelection
from fastsam2.engine.pointers import pointer_tokens
from fastsam2.engine.precision import without_autocast
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["ReadTables", "read_tables"]


@dataclass(frozen=True)
class ReadTables:
    """What N objects read on a frame: R memories of M channels in all, at most K an object, and at
    most P pointer tokens."""

    latents: Tensor  #: memories `[S, HW, M]`
    pos: Tensor  #: their positions `[HW, M]`
    slots: Tensor  #: the memory of each read, int32 `[R]`
    times: Tensor  #: temporal position of each read, int32 `[R]`
    reads: Tensor  #: the reads of each object, int32 `[N, K]`
    num_reads: Tensor  #: int32 `[N]`
    pointers: Tensor  #: `[N, P, M]`
    pointer_pos: Tensor  #: their positions
    num_pointers: Tensor  #: int32 `[N]`


def read_tables(model: SAM2Base, selections: Sequence[MemorySelection]) -> ReadTables:
    """Stack what is read into one pool, a slot a read."""
    device, dtype = model.device, model.dtype
    counts = [len(selection.frames) for selection in selections]
    latents, times, pos = [], [], None
    for t_pos, output in (pair for selection in selections for pair in selection.frames):
        assert output.maskmem_features is not None
        assert output.maskmem_pos_enc is not None
        latents.append(output.maskmem_features.to(device, dtype, non_blocking=True))
        times.append(model.num_maskmem - t_pos - 1)
        pos = output.maskmem_pos_enc[-1]
    assert pos is not None
    reads = torch.zeros(len(counts), max(counts), dtype=torch.int32)
    begin = 0
    for n, count in enumerate(counts):
        reads[n, :count] = torch.arange(begin, begin + count)
        begin += count
    pointers, pointer_pos, num_pointers = _pointers(model, selections)
    return ReadTables(
        latents=torch.cat(latents).flatten(2).transpose(1, 2).contiguous(),
        pos=pos[0].to(device, dtype).flatten(1).T.contiguous(),
        slots=torch.arange(len(times), dtype=torch.int32, device=device),
        times=torch.tensor(times, dtype=torch.int32, device=device),
        reads=reads.to(device),
        num_reads=torch.tensor(counts, dtype=torch.int32, device=device),
        pointers=pointers,
        pointer_pos=pointer_pos,
        num_pointers=num_pointers,
    )


def _pointers(
    model: SAM2Base, selections: Sequence[MemorySelection]
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(model.device):
        found = [pointer_tokens(model, selection) for selection in selections]
    counts = [len(tokens) for tokens, _ in found]
    # One at least, of which none may count: a compiled step knows no empty tensors.
    size = (len(found), max(1, *counts), model.mem_dim)
    tokens = torch.zeros(size, device=model.device, dtype=model.dtype)
    places = torch.zeros_like(tokens)
    for n, (token, place) in enumerate(found):
        tokens[n, : counts[n]] = token[:, 0]
        places[n, : counts[n]] = place[:, 0]
    return tokens, places, torch.tensor(counts, dtype=torch.int32, device=model.device)
