"""Memory that the objects of a batch read: pages of a pool, addressed by tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PagedMemory"]


@dataclass(frozen=True)
class PagedMemory:
    """Keys and values of N objects, each with up to K memories and P object pointer tokens.

    A memory has HW tokens. Its keys are D wide; its values are the latents, M wide. All tensors
    are contiguous and on one device; floating dtypes are that of the keys, except for `latents`.
    """

    keys: Tensor  #: rotated keys `[R, HW, D]` of one layer, as `memory_keys` returns them
    latents: Tensor  #: pool of memories `[S, HW, M]`, any floating dtype; converted when read
    slots: Tensor  #: row of `latents` of each read, int32 `[N, K]`
    reads: Tensor  #: row of `keys` of each read, int32 `[N, K]`
    num_reads: Tensor  #: valid reads of each object, int32 `[N]`
    pointer_keys: Tensor  #: keys of the pointer tokens, without RoPE, `[N, P, D]`; P may be 0
    pointer_latents: Tensor  #: their values `[N, P, M]`
    num_pointers: Tensor  #: valid pointer tokens of each object, int32 `[N]`

    def flat(self) -> list[Tensor]:
        """Return the tensors in one list, as the registered op takes them."""
        return [
            self.keys, self.latents, self.slots, self.reads, self.num_reads,
            self.pointer_keys, self.pointer_latents, self.num_pointers,
        ]  # fmt: skip

    @staticmethod
    def from_flat(tensors: Sequence[Tensor]) -> PagedMemory:
        """Return the inverse of `flat`."""
        return PagedMemory(*tensors)

    def pieces(self, i: int) -> list[tuple[Tensor, Tensor]]:
        """Return keys `[T, D]` and values `[T, M]` of each memory of object `i`, then of its
        pointers. A memory is converted to the dtype of the keys; otherwise these are views."""
        read, pointers = int(self.num_reads[i]), int(self.num_pointers[i])
        rows, slots = self.reads[i, :read].tolist(), self.slots[i, :read].tolist()
        return [
            *(
                (self.keys[row], self.latents[slot].to(self.keys.dtype))
                for row, slot in zip(rows, slots, strict=True)
            ),
            (self.pointer_keys[i, :pointers], self.pointer_latents[i, :pointers]),
        ]

    def of(self, i: int) -> tuple[Tensor, Tensor]:
        """Return keys `[T, D]` and values `[T, M]` of everything that object `i` reads."""
        keys, values = zip(*self.pieces(i), strict=True)
        return torch.cat(keys), torch.cat(values)
