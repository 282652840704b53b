"""Block tables: the slots that each object of a batch reads and writes, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, NamedTuple

from torch import Tensor

from fastsam2.engine.memory_pool import MemoryPool, Pages, Slot
from fastsam2.engine.runtime.upload import upload
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.types import FrameOutput

__all__ = ["BlockTables", "TableShape", "batch_size", "block_tables"]


class TableShape(NamedTuple):
    """Sizes of block tables."""

    objects: int
    reads: int  #: maps an object reads, at most
    rows: int  #: maps that all objects read
    pointers: int  #: pointers an object reads, at most

    @classmethod
    def exact(cls, selections: Sequence[MemorySelection]) -> TableShape:
        """Return the smallest sizes that hold these selections."""
        counts = [len(selection.frames) for selection in selections]
        # At least one pointer, which a compiled step needs.
        pointers = max(1, *(len(selection.pointers) for selection in selections))
        return cls(len(selections), max(counts), sum(counts), pointers)

    def rounded(self) -> TableShape:
        """Sizes rounded up, so that one recorded graph serves many frames."""
        objects, reads = batch_size(self.objects), max(8, _power_of_two(self.reads))
        return TableShape(objects, reads, objects * reads, max(16, _power_of_two(self.pointers)))


def batch_size(objects: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24... that holds so many objects."""
    power = _power_of_two(objects)
    return power * 3 // 4 if power >= 4 and objects <= power * 3 // 4 else power


def _power_of_two(n: int) -> int:
    """Return the smallest power of two >= `n`."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class BlockTables:
    """Slots of N objects on a frame: at most K maps and P pointers each, R maps in all."""

    #: dimensions whose sizes change from frame to frame
    DYNAMIC: ClassVar = {
        "slots": [0],
        "times": [0],
        "reads": [0, 1],
        "num_reads": [0],
        "object_slots": [0, 1],
        "pointer_slots": [0, 1],
        "distances": [0, 1],
        "num_pointer_tokens": [0],
        "write_slots": [0],
        "write_pointer_slots": [0],
    }
    slots: Tensor  #: slot of each map read, int32 `[R]`; -1 is padding
    times: Tensor  #: temporal position of each, int32 `[R]`
    reads: Tensor  #: rows of `slots` that each object reads, int32 `[N, K]`
    num_reads: Tensor  #: int32 `[N]`
    object_slots: Tensor  #: slot of each map that each object reads, int32 `[N, K]`
    pointer_slots: Tensor  #: slot of each pointer read, int32 `[N, P]`
    distances: Tensor  #: their temporal distances in spans, float32 `[N, P]`
    num_pointer_tokens: Tensor  #: int32 `[N]`
    write_slots: Tensor  #: slot for the new map of each object, int32 `[N]`
    write_pointer_slots: Tensor  #: slot for its new pointer, int32 `[N]`


def block_tables(
    model: SAM2Base,
    pool: MemoryPool,
    selections: Sequence[MemorySelection[FrameOutput]],
    shape: TableShape | None = None,
    writes: tuple[Sequence[Slot], Sequence[Slot]] = ((), ()),
) -> tuple[Pages, BlockTables]:
    """Copy the selected memories that have no slot into one, and build the tables.

    Args:
        shape: sizes of the tables, by default `TableShape.exact`; padding objects read nothing.
        writes: slots for the new maps and pointers; objects without one write to slot 0.
    """
    shape = TableShape.exact(selections) if shape is None else shape
    frames = list(chain.from_iterable(selection.frames for selection in selections))
    pointers = [selection.pointers for selection in selections]
    counts = [len(selection.frames) for selection in selections]
    pointer_counts = [len(row) for row in pointers]
    pieces = model.hidden_dim // model.mem_dim
    objects, padding = shape.objects, shape.rows - len(frames)
    positions = frames[0][1].maskmem_pos_enc
    assert positions is not None
    # Beside what is read: padding, what is written, and what is on its way to the host.
    pool.latents.reserve(1 + shape.rows + 3 * objects)
    pool.pointers.reserve(1 + objects * (shape.pointers + 3))
    slots = pool.latents.indices([_memory_of(output, pool) for _, output in frames])
    pointer_slots = pool.pointers.indices([p for _, p in chain(*pointers)])
    distances = [
        d / selection.pointer_span for selection in selections for d, _ in selection.pointers
    ]
    tables = upload(
        model.device,
        [*slots, *[-1] * padding],
        [*[model.num_maskmem - t_pos - 1 for t_pos, _ in frames], *[0] * padding],
        _rows(range(len(frames)), counts, objects, shape.reads),
        _padded(counts, objects),
        _rows(slots, counts, objects, shape.reads),
        _rows(pointer_slots, pointer_counts, objects, shape.pointers),
        _rows(distances, pointer_counts, objects, shape.pointers, fill=0.0),
        _padded([count * pieces for count in pointer_counts], objects),
        *(_padded([slot.index for slot in new], objects) for new in writes),
    )
    return pool.pages(positions[-1]), BlockTables(*tables)


def _memory_of(output: FrameOutput, pool: MemoryPool) -> Slot | Tensor:
    slot = output.slot
    if isinstance(slot, Slot) and slot.pool is pool.latents:
        return slot
    memory = output.maskmem_features
    assert memory is not None
    return memory


def _padded(values: Sequence[int], length: int) -> list[int]:
    return [*values, *[0] * (length - len(values))]


def _rows(
    values: Sequence[float], counts: Sequence[int], rows: int, width: int, fill: float = 0
) -> list[list[float]]:
    """Split `values` into rows of these counts, padded to `width` and `rows` by `fill`."""
    table, begin = [], 0
    for count in counts:
        table.append([*values[begin : begin + count], *[fill] * (width - count)])
        begin += count
    return table + [[fill] * width] * (rows - len(counts))
