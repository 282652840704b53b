"""Paged memory on the device: maps and object pointers in slots of preallocated pools.

A frame's memory is encoded into a slot and read from it. The host records which output owns which
slot; objects with different histories run in one batch, and nothing is concatenated.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fastsam2.engine.runtime.pytree import StaticInputs
from fastsam2.engine.runtime.upload import upload
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["MemoryPool", "Pages", "Pools", "Slot", "SlotPool"]

#: Pools without a session that are kept for later sessions.
_KEPT = 4


@dataclass(frozen=True)
class Pages(StaticInputs):
    """Tensors of all slots: memory maps of HW tokens with M channels, and object pointers."""

    DYNAMIC: ClassVar = {"latents": [0], "pointers": [0]}
    latents: Tensor  #: memory maps `[S, HW, M]`
    pos: Tensor  #: positions, the same for all maps, `[HW, M]`
    pointers: Tensor  #: `[S', C]`


class Slot:
    """Handle of a slot of a pool; the slot is freed when the handle is garbage-collected."""

    __slots__ = ("__weakref__", "index", "pool")

    def __init__(self, pool: SlotPool, index: int) -> None:
        self.pool = pool
        self.index = index

    def __del__(self) -> None:
        self.pool.free(self.index)

    @property
    def row(self) -> Tensor:
        """The slot's contents, a view of the pool, batch 1."""
        return self.pool.slots[self.index : self.index + 1]

    def from_row(self, row: Tensor) -> Tensor:
        """Return contents in the shape of output tensors, a view, batch 1."""
        return self.pool.from_rows(row)

    def copy(self) -> Tensor:
        """Return a copy of the slot's contents in the shape of output tensors, batch 1."""
        with torch.inference_mode(False):
            return self.from_row(self.row).clone()


class _Copied(NamedTuple):
    """A tensor that was copied into a slot; if a client edits it, it needs another slot."""

    source: Tensor  #: keeps its identity from being reused
    version: int | None  #: at the time; None for inference tensors, which have none
    slot: Slot


class SlotPool:
    """Slots of one tensor. Slot 0 is never allocated: padded rows of a batch write to it.

    Args:
        shape: shape of a slot.
        to_rows: converts output tensors `[N, ...]` into rows of slots.
        from_rows: the inverse.
        capacity: initial number of slots; the pool grows when they run out.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        to_rows: Callable[[Tensor], Tensor] = lambda x: x,
        from_rows: Callable[[Tensor], Tensor] = lambda x: x,
        capacity: int = 8,
    ) -> None:
        self._to_rows = to_rows
        self.from_rows = from_rows
        # Written in later calls, which need not be in inference mode.
        with torch.inference_mode(False):
            self.slots = torch.zeros(capacity, *shape, dtype=dtype, device=device)
        self._free = list(range(1, capacity))
        self._copied: dict[int, _Copied] = {}  # by the identity of the tensor

    def allocate(self, count: int) -> list[Slot]:
        """Allocate free slots; the pool grows if there are too few."""
        shortage = count - len(self._free)
        if shortage > 0:
            # By half at least, so that a pool that fills up frame by frame is seldom copied.
            self._grow(max(shortage, len(self.slots) // 2))
        return [Slot(self, self._free.pop()) for _ in range(count)]

    def free(self, index: int) -> None:
        self._free.append(index)

    def write(self, slots: Sequence[Slot], rows: Tensor) -> None:
        """Write rows into slots."""
        (index,) = upload(self.slots.device, [slot.index for slot in slots])
        self.slots.index_copy_(0, index.long(), rows.to(self.slots.dtype))

    def hold(self, source: Tensor, slot: Slot) -> None:
        """Register a slot as the copy of `source`, until `source` is edited or no longer read."""
        version = None if source.is_inference() else source._version
        self._copied[id(source)] = _Copied(source, version, slot)

    def indices(self, sources: Sequence[Slot | Tensor]) -> list[int]:
        """Return the slot indices of all memories that a frame reads.

        Tensors without a slot are copied into one; slots of tensors not in `sources` are freed.

        Args:
            sources: slots and tensors of batch 1, in any order; duplicates are allowed.
        """
        copied = self._copied
        for key in copied.keys() - set(map(id, sources)):
            del copied[key]
        missing: dict[int, Tensor] = {}
        for x in sources:
            if isinstance(x, Tensor):
                known = copied.get(id(x))
                if known is None or (known.version is not None and known.version != x._version):
                    copied.pop(id(x), None)
                    missing[id(x)] = x
        if missing:
            slots = self.allocate(len(missing))
            device = self.slots.device
            rows = torch.cat([x.to(device, non_blocking=True) for x in missing.values()])
            self.write(slots, self._to_rows(rows))
            for x, slot in zip(missing.values(), slots, strict=True):
                self.hold(x, slot)
        return [x.index if isinstance(x, Slot) else copied[id(x)].slot.index for x in sources]

    def clear(self) -> None:
        """Free the slots of tensors that were copied in."""
        self._copied.clear()

    def reserve(self, capacity: int) -> None:
        """Grow to at least this many slots."""
        if capacity > len(self.slots):
            self._grow(capacity - len(self.slots))

    def _grow(self, more: int) -> None:
        old = self.slots
        with torch.inference_mode(False):
            self.slots = torch.cat([old, old.new_zeros(more, *old.shape[1:])])
        self._free += range(len(old), len(old) + more)


class MemoryPool:
    """Memory maps and object pointers of a session.

    Args:
        model: the model that reads them, in its dtype.
        memory_dtype: dtype of memory maps.
    """

    def __init__(self, model: SAM2Base, memory_dtype: torch.dtype = torch.bfloat16) -> None:
        grid = model.sam_image_embedding_size
        self.latents = SlotPool(
            (grid**2, model.mem_dim),
            memory_dtype,
            model.device,
            lambda maps: maps.flatten(2).transpose(1, 2),
            lambda rows: rows.transpose(1, 2).unflatten(2, (grid, grid)),
        )
        self.pointers = SlotPool((model.hidden_dim,), model.dtype, model.device)
        with torch.inference_mode(False):
            self._pos = self.pointers.slots.new_zeros(grid**2, model.mem_dim)
        self._pos_of: Tensor | None = None

    def fits(self, model: SAM2Base, memory_dtype: torch.dtype) -> bool:
        """True if device, dtypes and grid are those of `model`."""
        latents, pointers = self.latents.slots, self.pointers.slots
        tokens = model.sam_image_embedding_size**2
        return (pointers.device, pointers.dtype, latents.dtype, latents.shape[1]) == (
            model.device,
            model.dtype,
            memory_dtype,
            tokens,
        )

    def pages(self, positions: Tensor) -> Pages:
        """Return the tensors of all slots.

        Args:
            positions: position encoding of the maps, `[1, M, H, W]`, the same for all.
        """
        if self._pos_of is not positions:
            # In place: recorded graphs read this address.
            self._pos.copy_(positions[0].flatten(1).T)
            self._pos_of = positions
        return Pages(self.latents.slots, self._pos, self.pointers.slots)

    def clear(self) -> None:
        """Drop tensors that were copied in; the pool keeps its size."""
        self.latents.clear()
        self.pointers.clear()
        self._pos_of = None


class Pools:
    """Pools of one model, each lent to a session for the session's lifetime.

    Reuse lets graphs that were captured on the pages of one session serve the next one.
    """

    def __init__(self) -> None:
        self._free: list[MemoryPool] = []

    def lend(self, model: SAM2Base, memory_dtype: torch.dtype, session: object) -> MemoryPool:
        """Return a free or new pool, and take it back when `session` is garbage-collected."""
        self._free = [pool for pool in self._free if pool.fits(model, memory_dtype)]
        pool = self._free.pop() if self._free else MemoryPool(model, memory_dtype)
        weakref.finalize(session, self._take_back, pool)
        return pool

    def _take_back(self, pool: MemoryPool) -> None:
        pool.clear()
        if len(self._free) < _KEPT:
            self._free.append(pool)

    def __reduce__(self) -> tuple[type[Pools], tuple[()]]:
        # Copies of the model start without pools.
        return Pools, ()
