"""Which memory each object of a batch reads, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from fastsam2.engine.memory_bank import MemorySelection
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.precision import without_autocast
from fastsam2.modeling.memory_tokens import as_tokens
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


def read_tables(
    model: SAM2Base, pool: MemoryPool, selections: Sequence[MemorySelection]
) -> ReadTables:
    """Bring what is read into the pool, and say where it lies."""
    frames = list(chain.from_iterable(selection.frames for selection in selections))
    memories = []
    for _, output in frames:
        assert output.maskmem_features is not None
        memories.append(output.maskmem_features)
    place = frames[0][1].maskmem_pos_enc
    assert place is not None
    device = model.device

    def moved(missing: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.to(device, non_blocking=True) for tensor in missing])

    counts = [len(selection.frames) for selection in selections]
    met = [selection.pointers for selection in selections]
    pointer_counts = [len(pointers) for pointers in met]
    with without_autocast(device):
        slots, times, reads, num_reads, pointer_slots, distances, num_pointers = _upload(
            device,
            pool.latents.bring(memories, lambda missing: moved(missing).flatten(2).transpose(1, 2)),
            [model.num_maskmem - t_pos - 1 for t_pos, _ in frames],
            _ragged(range(len(frames)), counts),
            counts,
            _ragged(pool.pointers.bring([p for _, p in chain(*met)], moved), pointer_counts),
            _ragged([distance for distance, _ in chain(*met)], pointer_counts),
            [count * (model.hidden_dim // model.mem_dim) for count in pointer_counts],
        )
        pointers, pointer_pos = as_tokens(
            model, pool.pointers.slots[pointer_slots], distances, selections[0].pointer_span
        )
    return ReadTables(
        latents=pool.latents.slots,
        pos=pool.positions(place[-1]),
        slots=slots,
        times=times,
        reads=reads,
        num_reads=num_reads,
        pointers=pointers,
        pointer_pos=pointer_pos,
        num_pointers=num_pointers,
    )


def _ragged(values: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """Rows of these lengths, padded with 0; one column at least, which a compiled step needs."""
    rows, begin, width = [], 0, max(1, *counts)
    for count in counts:
        row = values[begin : begin + count]
        rows.append([*row, *[0] * (width - count)])
        begin += count
    return rows


def _upload(device: torch.device, *tables: Sequence[object]) -> list[Tensor]:
    """Tables as int32 tensors on the device, in one copy."""
    found = [torch.tensor(table, dtype=torch.int32) for table in tables]
    if device.type == "cpu":
        return found
    flat = torch.cat([table.flatten() for table in found])
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = flat.to(device, non_blocking=True).split([table.numel() for table in found])
    return [part.view(table.shape) for part, table in zip(parts, found, strict=True)]
