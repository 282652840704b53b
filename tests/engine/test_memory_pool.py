"""The paged memory against a plain dictionary, over random sessions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsam2.engine.block_tables import BlockTables, TableShape, batch_size, block_tables
from fastsam2.engine.memory_pool import MemoryPool, Pages, SlotPool
from fastsam2.modeling import sam2_base
from fastsam2.modeling.memory_selection import SelectionRules
from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.types import FrameOutput
from tests.predictors.test_object_memory import Case, stated

FRAMES = 24
RULES = SelectionRules(
    num_maskmem=7,
    max_cond_frames=3,
    temporal_stride=1,
    use_obj_ptrs=True,
    max_obj_ptrs=16,
    signed_ptr_distance=True,
    only_past_ptrs=True,
)

#: The attributes of a model that block tables use; memories and pointers are one number each.
MODEL: Any = SimpleNamespace(
    device=torch.device("cpu"),
    dtype=torch.float32,
    mem_dim=1,
    hidden_dim=1,
    sam_image_embedding_size=1,
    num_maskmem=RULES.num_maskmem,
    add_tpos_enc_to_obj_ptrs=True,
    proj_tpos_enc_in_obj_ptrs=False,
    obj_ptr_tpos_proj=torch.nn.Identity(),
)

objects, frames = st.integers(0, 3), st.integers(0, FRAMES - 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("prompt"), objects, frames),
        st.tuples(st.just("correct"), objects, frames),
        st.tuples(st.just("unprompt"), objects, frames),
        st.tuples(st.just("remove"), objects),
        st.tuples(st.just("track"), frames, st.integers(1, 12), st.booleans()),
    ),
    min_size=1,
    max_size=15,
)


def output(value: float) -> FrameOutput:
    nothing = torch.zeros(1, 1)
    return FrameOutput(
        torch.full((1, 1, 1, 1), value),
        [torch.zeros(1, 1, 1, 1)],
        nothing,
        torch.full((1, 1), -value),
        nothing,
    )


class Session:
    """Objects with memory, and the same actions on plain dictionaries of numbers."""

    def __init__(self) -> None:
        self.memory: dict[int, ObjectMemory] = {}
        self.values: dict[int, tuple[dict[int, float], dict[int, float]]] = {}
        self.pool = MemoryPool(MODEL, torch.float32)
        self._fresh = map(float, count(1))

    def prompt(self, obj: int, t: int) -> None:
        memory = self.memory.setdefault(obj, ObjectMemory())
        cond, tracked = self.values.setdefault(obj, ({}, {}))
        cond[t] = next(self._fresh)
        tracked.pop(t, None)
        memory.cond_frame_outputs[t] = output(cond[t])
        memory.non_cond_frame_outputs.pop(t, None)

    def correct(self, obj: int, t: int) -> None:
        if obj in self.values and t in self.values[obj][1]:
            self._found(obj, t)

    def unprompt(self, obj: int, t: int) -> None:
        if obj in self.values and t in self.values[obj][0]:
            cond, tracked = self.values[obj]
            memory = self.memory[obj]
            tracked[t] = cond.pop(t)
            memory.non_cond_frame_outputs[t] = memory.cond_frame_outputs.pop(t)

    def remove(self, obj: int) -> None:
        self.memory.pop(obj, None)
        self.values.pop(obj, None)

    def track(self, start: int, length: int, reverse: bool) -> None:
        step = -1 if reverse else 1
        for t in range(start, start + step * length, step):
            ready = [obj for obj, (cond, _) in self.values.items() if cond and t not in cond]
            if not 0 <= t < FRAMES or not ready:
                continue
            chosen = [
                self.memory[obj].select(t, RULES, num_frames=FRAMES, reverse=reverse)
                for obj in ready
            ]
            pages, tables = block_tables(MODEL, self.pool, chosen)
            expected = [self._expected(obj, t, reverse) for obj in ready]
            assert list(what_is_read(pages, tables)) == expected
            self._check_pool(expected)
            for obj in ready:
                self._found(obj, t)

    def _found(self, obj: int, t: int) -> None:
        self.values[obj][1][t] = next(self._fresh)
        self.memory[obj].non_cond_frame_outputs[t] = output(self.values[obj][1][t])

    def _expected(self, obj: int, t: int, reverse: bool) -> Any:
        """Return (temporal position, value) of memories, and (distance, value) of pointers."""
        cond, tracked = self.values[obj]
        values = {**tracked, **cond}
        memories, met = stated(Case(t, list(cond), list(tracked), FRAMES, reverse, RULES))
        places = [(RULES.num_maskmem - place - 1, values[k]) for place, k in memories]
        return places, [(distance, -values[k]) for distance, k in met]

    def _check_pool(self, expected: list[Any]) -> None:
        for pool, kind in ((self.pool.latents, 0), (self.pool.pointers, 1)):
            wanted = {value for read in expected for _, value in read[kind]}
            lent = [copied.slot.index for copied in pool._copied.values()]
            assert len(lent) == len(set(lent)) == len(wanted)  # no slot serves two
            assert sorted(lent + pool._free) == list(range(1, len(pool.slots)))  # none is lost


def what_is_read(pages: Pages, tables: BlockTables) -> Iterator[Any]:
    read = pages.pointers[tables.pointer_slots.long()]
    pointers, places = sam2_base.SAM2Base.pointer_tokens(MODEL, read, tables.distances)
    for n, size in enumerate(tables.num_reads.tolist()):
        reads = tables.reads[n, :size].long()
        values = pages.latents[tables.slots[reads].long(), 0, 0]
        length = int(tables.num_pointer_tokens[n])
        distances = (places[n, :length, 0] * (RULES.max_obj_ptrs - 1)).round()
        yield (
            list(zip(tables.times[reads].tolist(), values.tolist(), strict=True)),
            list(zip(distances.tolist(), pointers[n, :length, 0].tolist(), strict=True)),
        )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(actions)
def test_reads_return_the_written_memory(script: list[tuple[Any, ...]]) -> None:
    session = Session()
    with mock.patch.object(sam2_base, "get_1d_sine_pe", lambda x, dim: x.unsqueeze(-1)):
        session.prompt(0, 3)
        for name, *arguments in script:
            getattr(session, name)(*arguments)
        session.track(4, FRAMES, False)
        session.track(FRAMES - 1, FRAMES, True)


def test_pool_grows_with_objects_not_with_frames() -> None:
    session, sizes = Session(), []
    with mock.patch.object(sam2_base, "get_1d_sine_pe", lambda x, dim: x.unsqueeze(-1)):
        for obj in range(20):
            session.prompt(obj, 0)
        for _ in range(4):
            session.track(1, FRAMES, False)
            sizes.append(len(session.pool.latents.slots))
    # 20 objects read 7 memories each; growth adds at most half.
    assert 20 * 7 <= sizes[0] <= 20 * 7 * 1.5
    assert len(set(sizes)) == 1


def pool_of_numbers(**kwargs: Any) -> SlotPool:
    return SlotPool((1,), torch.float32, torch.device("cpu"), **kwargs)


def test_replaced_tensor_gets_a_new_slot() -> None:
    pool = pool_of_numbers(capacity=2)
    first, second = torch.ones(1, 1), torch.full((1, 1), 2.0)
    assert pool.indices([first]) == [1]
    (slot,) = pool.indices([second])
    assert pool.slots[slot].item() == 2
    assert pool._free == []
    second.fill_(3)
    (slot,) = pool.indices([second])
    assert pool.slots[slot].item() == 3


def test_memory_in_a_slot_is_not_written_again() -> None:
    written: list[float] = []

    def rows(x: torch.Tensor) -> torch.Tensor:
        written.extend(x.flatten().tolist())
        return x

    pool = pool_of_numbers(to_rows=rows)
    sources = [torch.full((1, 1), float(i)) for i in range(5)]
    before = pool.indices(sources)
    written.clear()
    extra = torch.full((1, 1), 9.0)
    after = pool.indices([extra, *sources[2:], sources[2]])
    assert written == [9]
    assert after[1:] == [*before[2:], before[2]]
    assert pool.slots[after].flatten().tolist() == [9, 2, 3, 4, 2]


def test_slots_are_written_once_and_free_when_dropped() -> None:
    """Also while the pool grows, and while tensors are copied in and dropped."""
    pool = pool_of_numbers(capacity=3)
    slots = pool.allocate(2)
    pool.write(slots, torch.tensor([[5.0], [6.0]]))
    held = torch.full((1, 1), 6.0)
    pool.hold(held, slots.pop())
    assert pool.indices([held, torch.zeros(1, 1), slots[0]])[0] == 1
    assert len(pool.slots) > 3
    assert [float(pool.slots[i]) for i in pool.indices([slots[0], held])] == [5, 6]
    kept = slots[0].copy()
    slots.clear()
    pool.indices([])
    assert sorted(pool._free) == list(range(1, len(pool.slots)))
    pool.write(pool.allocate(len(pool._free)), torch.zeros(len(pool.slots) - 1, 1))
    assert kept.item() == 5


def test_padded_objects_write_to_slot_0() -> None:
    pool = MemoryPool(MODEL, torch.float32)
    memory = ObjectMemory()
    memory.cond_frame_outputs[0] = output(1.0)
    selection = memory.select(1, RULES, num_frames=None, reverse=False)
    new = pool.latents.allocate(1), pool.pointers.allocate(1)
    shape = TableShape.exact([selection]).rounded()._replace(objects=4)
    _, tables = block_tables(MODEL, pool, [selection], shape, new)
    assert tables.write_slots.tolist() == [new[0][0].index, 0, 0, 0]
    assert tables.write_pointer_slots.tolist() == [new[1][0].index, 0, 0, 0]
    assert 0 not in [slot.index for slot in pool.latents.allocate(20)]


def test_output_copies_its_memory_on_read() -> None:
    pool = MemoryPool(MODEL, torch.float32)
    (slot,) = pool.latents.allocate(1)
    pool.latents.write([slot], torch.full((1, 1, 1), 7.0))
    record = output(0.0)
    record.store(slot, [torch.zeros(1, 1, 1, 1)])
    assert record.slot is slot
    memory = record["maskmem_features"]
    assert memory.shape == (1, 1, 1, 1)
    assert record["maskmem_features"] is memory
    assert record.slot is slot  # read, not edited
    with torch.inference_mode():
        memory.mul_(2)
    assert record.slot is None
    assert float(record["maskmem_features"]) == 14


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        SelectionRules,
        num_maskmem=st.integers(1, 9),
        max_cond_frames=st.just(-1),
        temporal_stride=st.integers(1, 5),
        use_obj_ptrs=st.booleans(),
        max_obj_ptrs=st.integers(2, 16),
        signed_ptr_distance=st.booleans(),
        only_past_ptrs=st.booleans(),
    )
)
def test_reach_is_the_farthest_frame_read(rules: SelectionRules) -> None:
    farthest = 0
    for now in range(60, 70):
        tracked = [t for t in range(now) if t > 0]
        memories, met = stated(Case(now, [0], tracked, 100, False, rules))
        farthest = max([farthest, *(now - t for _, t in chain(memories, met) if t > 0)])
    assert farthest == rules.reach


def test_batch_sizes() -> None:
    """At most a third of a batch is padding."""
    sizes = sorted({batch_size(n) for n in range(1, 129)})
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert all(n <= batch_size(n) <= max(1.5 * n, 1) for n in range(1, 129))
