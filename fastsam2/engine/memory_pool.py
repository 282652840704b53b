"""The memory that frames read now, on the device: paged, as a server of language models pages its
cache.

All that is remembered lies in the history of each object, which may be long, and on the host. What
the next frame reads of it lies in slots of preallocated pools. So nothing is concatenated, objects
of any history run in one batch, and the device holds no more for a long video than for a short one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsam2.engine.runtime.pytree import StaticInputs
from fastsam2.engine.runtime.upload import upload
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["MemoryPool", "Pages", "Pools", "SlotPool"]

#: Pools without a session that are kept for another one.
_KEPT = 4


@dataclass(frozen=True)
class Pages(StaticInputs):
    """What is remembered, as frames read it: memories of HW tokens of M channels, and pointers."""

    latents: Tensor  #: memories `[S, HW, M]`
    pos: Tensor  #: their positions `[HW, M]`
    pointers: Tensor  #: `[S', C]`


class SlotPool:
    """Slots of one tensor, each lent to a tensor of the history.

    Args:
        shape: of what a slot holds.
        as_row: what a slot holds of a tensor of the history.
        capacity: slots to begin with; more are made when they run out.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        as_row: Callable[[Tensor], Tensor] = lambda source: source,
        capacity: int = 8,
    ) -> None:
        self._as_row = as_row
        # Written to in later calls, which need not be in inference mode.
        with torch.inference_mode(False):
            self.slots = torch.zeros(capacity, *shape, dtype=dtype, device=device)
        self._free = list(range(capacity))
        # By identity and version: a client that replaces or edits a tensor has made another memory.
        # The tensor is kept as well, so that its identity goes to no other one meanwhile.
        self._lent: dict[tuple[int, int], tuple[Tensor, int]] = {}

    def __len__(self) -> int:
        """How many slots are lent."""
        return len(self._lent)

    def bring(self, sources: Sequence[Tensor]) -> list[int]:
        """The slots of what is read now. What has none is put into one; all others are taken back.

        Args:
            sources: what is read, batch 1, in any order, also several times.
        """
        wanted = {_key(source): source for source in sources}
        for key in self._lent.keys() - wanted.keys():
            self._free.append(self._lent.pop(key)[1])
        missing = [source for key, source in wanted.items() if key not in self._lent]
        if missing:
            # By half at least, so that memory that fills up frame by frame is seldom copied.
            shortage = len(missing) - len(self._free)
            if shortage > 0:
                self._grow(max(shortage, len(self.slots) // 2))
            slots = [self._free.pop() for _ in missing]
            self._lent.update((_key(s), (s, slot)) for s, slot in zip(missing, slots, strict=True))
            device, dtype = self.slots.device, self.slots.dtype
            rows = torch.cat([source.to(device, non_blocking=True) for source in missing])
            (index,) = upload(device, slots)
            self.slots.index_copy_(0, index.long(), self._as_row(rows).to(dtype))
        return [self._lent[_key(source)][1] for source in sources]

    def reserve(self, capacity: int) -> None:
        """Make room for so many."""
        if capacity > len(self.slots):
            self._grow(capacity - len(self.slots))

    def _grow(self, more: int) -> None:
        old = self.slots
        with torch.inference_mode(False):
            self.slots = torch.cat([old, old.new_zeros(more, *old.shape[1:])])
        self._free += range(len(old), len(old) + more)


def _key(source: Tensor) -> tuple[int, int]:
    return id(source), 0 if source.is_inference() else source._version


class MemoryPool:
    """Memories and object pointers of a session.

    Args:
        model: whose memory it is.
    """

    def __init__(self, model: SAM2Base) -> None:
        shape = (model.sam_image_embedding_size**2, model.mem_dim)
        self.latents = SlotPool(
            shape, model.dtype, model.device, lambda memory: memory.flatten(2).transpose(1, 2)
        )
        self.pointers = SlotPool((model.hidden_dim,), model.dtype, model.device)
        with torch.inference_mode(False):
            self._pos = self.latents.slots.new_zeros(shape)
        self._pos_of: Tensor | None = None

    def fits(self, model: SAM2Base) -> bool:
        """Whether it is still of the model's device and dtype."""
        slots = self.latents.slots
        return (slots.device, slots.dtype) == (model.device, model.dtype)

    def pages(self, positions: Tensor) -> Pages:
        """What lies in the slots; memories have positions `[1, M, H, W]`, the same for all."""
        if self._pos_of is not positions:
            # Where the earlier ones were: whoever recorded that place goes on reading there.
            self._pos.copy_(positions[0].flatten(1).T)
            self._pos_of = positions
        return Pages(self.latents.slots, self._pos, self.pointers.slots)

    def clear(self) -> None:
        """Let go of all memories, but not of the place for them."""
        for slots in (self.latents, self.pointers):
            slots.bring([])
        self._pos_of = None


class Pools:
    """Pools of one model, each lent to a session for as long as that lives.

    So what has been recorded of the pages of one session serves the next one.
    """

    def __init__(self) -> None:
        self._free: list[MemoryPool] = []

    def lend(self, model: SAM2Base, session: object) -> MemoryPool:
        """A pool for `session`."""
        self._free = [pool for pool in self._free if pool.fits(model)]
        pool = self._free.pop() if self._free else MemoryPool(model)
        weakref.finalize(session, self._take_back, pool)
        return pool

    def _take_back(self, pool: MemoryPool) -> None:
        pool.clear()
        if len(self._free) < _KEPT:
            self._free.append(pool)

    def __reduce__(self) -> tuple[type[Pools], tuple[()]]:
        # A copy of the model has none of its tensors.
        return Pools, ()
