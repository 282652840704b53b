"""Which memory each object of a batch reads, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from torch import Tensor

from fastsam2.engine.memory_pool import MemoryPool, Pages
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.engine.runtime.upload import upload
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.memory_tokens import as_tokens
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["BlockTables", "TableShape", "pointer_tokens", "block_tables"]


class TableShape(NamedTuple):
    """How much tables have room for."""

    objects: int
    reads: int  #: of one object
    rows: int  #: reads of all objects
    pointers: int  #: of one object

    @classmethod
    def exact(cls, selections: Sequence[MemorySelection]) -> TableShape:
        """Just for what is read."""
        counts = [len(selection.frames) for selection in selections]
        # One pointer at least, which a compiled step needs.
        pointers = max(1, *(len(selection.pointers) for selection in selections))
        return cls(len(selections), max(counts), sum(counts), pointers)

    def rounded(self) -> TableShape:
        """At least as much, in one of few sizes, so that what is recorded of one serves many."""
        objects, reads = _power_of_two(self.objects), max(8, _power_of_two(self.reads))
        return TableShape(objects, reads, objects * reads, max(16, _power_of_two(self.pointers)))


def _power_of_two(n: int) -> int:
    """The least that is not below `n`."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class BlockTables:
    """What N objects read on a frame: at most K memories and P pointers each, R memories in all."""

    slots: Tensor  #: the page of each memory read, int32 `[R]`; -1 where nothing is
    times: Tensor  #: temporal position of each, int32 `[R]`
    reads: Tensor  #: which of the R are read by each object, int32 `[N, K]`
    num_reads: Tensor  #: int32 `[N]`
    pointer_slots: Tensor  #: the page of each pointer read, int32 `[N, P]`
    distances: Tensor  #: how far away in time each is, in spans, float32 `[N, P]`
    num_pointer_tokens: Tensor  #: int32 `[N]`


def block_tables(
    model: SAM2Base,
    pool: MemoryPool,
    selections: Sequence[MemorySelection],
    room: TableShape | None = None,
) -> tuple[Pages, BlockTables]:
    """Bring what is read into the pool, and say where it lies.

    Args:
        room: of the tables, by default `TableShape.exact`. Objects that are not there read nothing.
    """
    room = TableShape.exact(selections) if room is None else room
    frames = list(chain.from_iterable(selection.frames for selection in selections))
    memories = []
    for _, output in frames:
        assert output.maskmem_features is not None
        memories.append(output.maskmem_features)
    place = frames[0][1].maskmem_pos_enc
    assert place is not None
    met = [selection.pointers for selection in selections]
    spans = [selection.pointer_span for selection in selections]
    counts = [len(selection.frames) for selection in selections]
    pointer_counts = [len(pointers) for pointers in met]
    pieces = model.hidden_dim // model.mem_dim
    objects, none = room.objects, room.rows - len(frames)
    pool.latents.reserve(room.rows)
    pool.pointers.reserve(room.objects * room.pointers)
    with without_autocast(model.device):
        slots = pool.latents.bring(memories)
        pointer_slots = pool.pointers.bring([p for _, p in chain(*met)])
        tables = upload(
            model.device,
            [*slots, *[-1] * none],
            [*[model.num_maskmem - t_pos - 1 for t_pos, _ in frames], *[0] * none],
            _rows(range(len(frames)), counts, objects, room.reads),
            [*counts, *[0] * (objects - len(counts))],
            _rows(pointer_slots, pointer_counts, objects, room.pointers),
            _rows(
                [d / span for span, of_one in zip(spans, met, strict=True) for d, _ in of_one],
                pointer_counts,
                objects,
                room.pointers,
                fill=0.0,
            ),
            [*[count * pieces for count in pointer_counts], *[0] * (objects - len(counts))],
        )
    return pool.pages(place[-1]), BlockTables(*tables)


def pointer_tokens(model: SAM2Base, pages: Pages, tables: BlockTables) -> tuple[Tensor, Tensor]:
    """The tokens that pointers are read as, and their positions, `[N, P * C / M, M]` each."""
    return as_tokens(model, pages.pointers[tables.pointer_slots.long()], tables.distances)


def _rows(
    values: Sequence[float], counts: Sequence[int], rows: int, width: int, fill: float = 0
) -> list[list[float]]:
    """Rows of these lengths, filled up to `width`, and rows of `fill` after them."""
    table, begin = [], 0
    for count in counts:
        table.append([*values[begin : begin + count], *[fill] * (width - count)])
        begin += count
    return table + [[fill] * width] * (rows - len(counts))
