"""Shared memory of a batch of programs, with asynchronous copies (`cp.async`) and barriers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tests.emulator.arithmetic import WARP
from tests.emulator.faults import Faults
from tests.emulator.memory import GlobalMemory
from tests.emulator.ptx import Instruction
from tests.emulator.races import RaceDetector

__all__ = ["SharedMemory"]

Array = NDArray[np.generic]
Ints = NDArray[np.int64]

#: Content of memory that was not written, or whose copy has not arrived: NaN in every float format.
_POISON = 0xFF


@dataclass(frozen=True)
class _Copy:
    """A copy under way. Arrays are [programs, threads].

    Attributes:
        source: address in global memory, valid where `fetched`.
        active: threads that copy.
        fetched: those that do not write zeros instead.
    """

    target: Ints
    source: Ints
    size: int
    active: Array
    fetched: Array
    instruction: Instruction

    def take(self, chosen: Array) -> _Copy:
        names = ("target", "source", "active", "fetched")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


class SharedMemory:
    """Shared memory of programs; addresses are bytes from its start.

    Args:
        shape: number of programs, and of threads of each.
        size: bytes of a program.
        unit: bytes of the smallest store.
    """

    def __init__(
        self, shape: tuple[int, int], size: int, unit: int, memory: GlobalMemory, faults: Faults
    ) -> None:
        self.shape = shape
        self.size = max(16, -(-size // 16) * 16)
        self.memory = memory
        self.faults = faults
        self.data = np.full((shape[0], self.size), _POISON, np.uint8)
        self.races = RaceDetector(shape[0], self.size, unit, faults)
        self.open: list[_Copy] = []
        self.groups: list[list[_Copy]] = []

    def take(self, chosen: Array) -> SharedMemory:
        """Return the memory of the chosen programs."""
        new = copy.copy(self)
        new.data = self.data[chosen]
        new.shape = len(new.data), self.shape[1]
        new.races = self.races.take(chosen)
        new.open = [x.take(chosen) for x in self.open]
        new.groups = [[x.take(chosen) for x in group] for group in self.groups]
        return new

    def load(
        self, address: Array, size: int, count: int, mask: Array | None, instruction: Instruction
    ) -> list[Array]:
        """Return `count` adjacent words of `size` bytes at each address."""
        place, active = self._check("load", address, size * count, mask, instruction)
        if not active.any():
            return [np.zeros((1, 1), f"u{size}")] * count
        self._stamp(self.races.load, place, active, size * count, instruction)
        index = self._index(place, size)
        return [self._words(size).take(index + i) for i in range(count)]

    def store(
        self,
        address: Array,
        size: int,
        values: Sequence[Array],
        mask: Array | None,
        instruction: Instruction,
    ) -> None:
        place, active = self._check("store", address, size * len(values), mask, instruction)
        if not active.any():
            return
        self._stamp(self.races.store, place, active, size * len(values), instruction)
        self._write(place, active, values, instruction)

    def load_matrices(
        self, address: Array, count: int, transposed: bool, instruction: Instruction
    ) -> list[Array]:
        """Load 8 x 8 matrices of 16-bit elements, as fragments (`ldmatrix`).

        Lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i.
        """
        rows = self._rows(address, count, instruction)
        program, warp = np.indices(rows.shape)[:2].reshape(2, -1)
        self.races.load(program, warp * WARP, rows.ravel(), 16, instruction, by_warp=True)
        index = (rows + self._base[..., None, None]) // 2
        matrices = self._words(2).take(index[..., None] + np.arange(8))
        if transposed:
            matrices = matrices.swapaxes(-1, -2)
        # Lane 4 g + t gets columns 2 t and 2 t + 1 of row g.
        words = np.ascontiguousarray(matrices.transpose(2, 0, 1, 3, 4)).view(np.uint32)
        return list(words.reshape(count, *self.shape))

    def store_matrices(
        self, address: Array, values: Sequence[Array], transposed: bool, instruction: Instruction
    ) -> None:
        """Store the fragments of 8 x 8 matrices (`stmatrix`)."""
        everyone = np.ones(self.shape, bool)
        rows = np.moveaxis(self._rows(address, len(values), instruction), 2, 0)
        lane = np.arange(WARP)
        for row, value in zip(rows, values, strict=True):
            word = np.ascontiguousarray(np.broadcast_to(value, self.shape))
            if transposed:
                halves = word.view(np.uint16).reshape(*self.shape, 2)
                parts = [(2 * (lane % 4) + e, 2 * (lane // 4), halves[..., e]) for e in range(2)]
            else:
                parts = [(lane // 4, 4 * (lane % 4), word)]
            for number, step, part in parts:
                place = (row[..., number] + step).reshape(self.shape)
                self._stamp(self.races.store, place, everyone, part.dtype.itemsize, instruction)
                self._write(place, everyone, [part], instruction)

    # Asynchronous copies

    def copy_async(
        self,
        target: Array,
        source: Array,
        size: int,
        fetched: Array | None,
        mask: Array | None,
        programs: Array,
        instruction: Instruction,
    ) -> None:
        """Start a copy of `size` bytes from global memory; zeros where `fetched` is 0 bytes."""
        place, active = self._check("cp.async", target, size, mask, instruction)
        if not active.any():
            return
        wanted = active
        if fetched is not None:
            if not np.isin(fetched, (0, size)).all():
                raise NotImplementedError(f"{instruction}: cp.async of a part")
            wanted = active & (fetched != 0)
        source = np.broadcast_to(source, self.shape)
        found = self.memory.check("load", source, size, wanted, programs, instruction)
        # The target may be written at any time up to the wait.
        self._stamp(self.races.store, place, active, size, instruction)
        poison = np.full(self.shape, 0xFFFFFFFF, np.uint32)
        self._write(place, active, [poison] * (size // 4), instruction)
        found = np.zeros(self.shape, np.int64) if found is None else found
        self.open.append(_Copy(place, found, size, active, wanted, instruction))

    def commit(self) -> None:
        """Make the copies since the last call a group."""
        self.groups = [*self.groups, self.open]
        self.open = []

    def wait(self, pending: int) -> None:
        """Let all but the last `pending` groups arrive."""
        arriving = self.groups[: len(self.groups) - pending]
        self.groups = self.groups[len(arriving) :]
        for group in arriving:
            for x in group:
                values = [np.uint32(0)] * (x.size // 4)
                if x.fetched.any():
                    words = self.memory.fetch(x.source, 4, x.size // 4)
                    values = [np.where(x.fetched, word, np.uint32(0)) for word in words]
                self._stamp(self.races.store, x.target, x.active, x.size, x.instruction)
                self._write(x.target, x.active, values, x.instruction)

    # Accesses of the matrix unit and of bulk copies

    def load_async(
        self, program: Ints, address: Ints, size: int, instruction: Instruction
    ) -> Array:
        """Return words of `size` bytes at the same addresses of several programs."""
        if address.min() < 0 or address.max() + size > self.size:
            self.faults.stop("matrix unit loads out of bounds of shared memory", instruction)
        return self.data.view(f"u{size}")[program[:, None, None], address // size]

    # Internals

    @property
    def _base(self) -> Ints:
        """Offset of each program in the flat memory."""
        return np.arange(self.shape[0])[:, None] * self.size

    def _words(self, size: int) -> Array:
        return self.data.reshape(-1).view(f"u{size}")

    def _index(self, place: Ints, size: int) -> Ints:
        return (place + self._base) // size

    def _write(
        self, place: Ints, active: Array, values: Sequence[Array], instruction: Instruction
    ) -> None:
        size = values[0].dtype.itemsize
        words, index = self._words(size), self._index(place, size)[active]
        for i, value in enumerate(values):
            x = np.broadcast_to(value, self.shape)[active]
            words[index + i] = x
            if (words[index + i] != x).any():
                self.faults.add(
                    "race in shared memory: threads store different values at once", instruction
                )

    def _check(
        self, access: str, address: Array, size: int, mask: Array | None, instruction: Instruction
    ) -> tuple[Ints, Array]:
        """Return addresses, 0 where not active, and the active threads, both of the full shape."""
        place = np.broadcast_to(address, self.shape).astype(np.int64)
        active = np.broadcast_to(True if mask is None else mask, self.shape)
        place = np.where(active, place, 0)
        if place.min() < 0 or place.max() + size > self.size:
            detail = f"bytes {place.min()} to {place.max() + size} of {self.size}"
            self.faults.stop(f"{access} out of bounds of shared memory", instruction, detail)
        if (place & (size - 1)).any():
            self.faults.add(f"misaligned {access} of {size} bytes of shared memory", instruction)
        return place, active

    def _rows(self, address: Array, count: int, instruction: Instruction) -> Ints:
        """Return the addresses of the rows of matrices as [programs, warps, count, 8]."""
        given = np.arange(self.shape[1]) % WARP < 8 * count
        place, _ = self._check("access to matrices", address, 16, given[None], instruction)
        lanes = place.reshape(self.shape[0], -1, WARP)[:, :, : 8 * count]
        return lanes.reshape(*lanes.shape[:2], count, 8)

    def _stamp(
        self, check: object, place: Ints, active: Array, size: int, instruction: Instruction
    ) -> None:
        program, thread = np.nonzero(active)
        check(program, thread, place[active], size, instruction)  # type: ignore[operator]
