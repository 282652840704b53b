"""Bulk copies of sm_90: tiles of tensors (TMA), and the barriers on which they complete.

A copy into shared memory arrives as late as it may: when a thread waits for its barrier. One out of
shared memory reads its tile when its group is waited for. All threads of a program execute the same
instruction, so a barrier that is not complete when it is waited for never will be.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tests.emulator.faults import Faults
from tests.emulator.hopper import swizzle
from tests.emulator.memory import GlobalMemory
from tests.emulator.ptx import Instruction
from tests.emulator.shared import SharedMemory

__all__ = ["BulkCopies", "Descriptor"]

Array = NDArray[np.generic]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Descriptor:
    """A tensor in global memory and the tile that a copy takes, outermost dimension first.

    Attributes:
        base: address.
        size: bytes of an element.
        strides: in elements.
        span: bytes of a swizzled row in shared memory, 16 without a swizzle.
    """

    base: int
    size: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    tile: tuple[int, ...]
    span: int

    @property
    def bytes(self) -> int:
        return int(np.prod(self.tile)) * self.size

    def addresses(self, first: Sequence[int]) -> tuple[Ints, Array]:
        """Return the addresses of the elements of the tile at `first`, and which exist."""
        address, inside = np.int64(self.base), np.array(True)
        for start, length, n, stride in zip(
            first, self.tile, self.shape, self.strides, strict=True
        ):
            index = start + np.arange(length)
            address = address[..., None] + index * stride * self.size
            inside = inside[..., None] & (index >= 0) & (index < n)
        return address.ravel(), inside.ravel()

    def places(self, target: int) -> Ints:
        """Return the addresses of the elements in shared memory, for a tile at `target`."""
        return swizzle(target + np.arange(self.bytes // self.size) * self.size, self.span)


@dataclass(frozen=True)
class _Copy:
    descriptor: Descriptor
    first: tuple[int, ...]
    place: int
    instruction: Instruction


@dataclass
class _Barrier:
    """State of a barrier of one program.

    Attributes:
        count: arrivals that complete a phase; `missing` of them are missing.
        expected: bytes that the phase waits for; copies of `issued` bytes have started.
        phase: 0 or 1, changes when a phase is complete.
        copies: those started in this phase.
        due: those of complete phases that no thread has waited for.
    """

    count: int
    missing: int
    expected: int = 0
    issued: int = 0
    phase: int = 0
    copies: list[_Copy] = field(default_factory=list)
    due: list[_Copy] = field(default_factory=list)

    def advance(self) -> None:
        """Begin the next phase if this one is complete."""
        if not self.missing and self.expected == self.issued:
            self.phase ^= 1
            self.missing, self.expected, self.issued = self.count, 0, 0
            self.due, self.copies = self.due + self.copies, []


class BulkCopies:
    """Barriers and bulk copies of a batch of programs."""

    def __init__(
        self,
        shared: SharedMemory,
        memory: GlobalMemory,
        descriptors: Sequence[Descriptor],
        number: Array,
        faults: Faults,
    ) -> None:
        self.shared, self.memory, self.faults = shared, memory, faults
        self.descriptors = descriptors
        self.number = number
        self.barriers: list[dict[int, _Barrier]] = [{} for _ in number]
        #: Copies to global memory of each program: those not committed, and the groups.
        self.open: list[list[_Copy]] = [[] for _ in number]
        self.groups: list[list[list[_Copy]]] = [[] for _ in number]

    def take(self, chosen: Array, shared: SharedMemory) -> BulkCopies:
        """Return the state of the chosen programs, whose memory is `shared`."""
        rows = np.flatnonzero(chosen)
        new = copy.copy(self)
        new.shared, new.number = shared, self.number[chosen]
        new.barriers = [
            {place: replace(x, copies=[*x.copies]) for place, x in self.barriers[i].items()}
            for i in rows
        ]
        new.open = [[*self.open[i]] for i in rows]
        new.groups = [[*self.groups[i]] for i in rows]
        return new

    def initialise(
        self, address: Array, count: Array, mask: Array | None, instruction: Instruction
    ) -> None:
        for program, _, place, n in self._active(mask, address, count):
            self.barriers[program][place] = _Barrier(n, n)

    def invalidate(self, address: Array, mask: Array | None, instruction: Instruction) -> None:
        for program, _, place in self._active(mask, address):
            self.barriers[program].pop(place, None)

    def arrive(
        self,
        address: Array,
        count: Array,
        expected: Array,
        mask: Array | None,
        instruction: Instruction,
    ) -> None:
        """Let each thread arrive `count` times, and expect more bytes in this phase."""
        for program, _, place, n, size in self._active(mask, address, count, expected):
            barrier = self._barrier(program, place, instruction)
            if not barrier.missing:
                self.faults.stop("more arrivals at a barrier than it has", instruction)
            barrier.expected += size
            barrier.missing -= n
            barrier.advance()

    def wait(self, address: Array, parity: Array, instruction: Instruction) -> Array:
        """Wait until the phase of `parity` is complete; returns true."""
        for program, _, place, phase in self._active(None, address, parity):
            barrier = self._barrier(program, place, instruction)
            if barrier.phase == phase:
                self.faults.stop(
                    "wait for a barrier that never completes",
                    instruction,
                    f"{barrier.missing} arrivals missing, "
                    f"{barrier.issued} of {barrier.expected} bytes copied",
                )
            for x in barrier.due:
                self._read(program, x)
            barrier.due = []
        return np.ones((1, 1), bool)

    def load(
        self,
        descriptor: Array,
        first: Sequence[Array],
        target: Array,
        address: Array,
        mask: Array | None,
        instruction: Instruction,
    ) -> None:
        """Start a copy of a tile into shared memory; `first` is its place, innermost first."""
        active = self._active(mask, descriptor, target, address, *reversed(first))
        for program, thread, handle, place, at, *start in active:
            x = _Copy(self.descriptors[handle], tuple(start), place, instruction)
            barrier = self._barrier(program, at, instruction)
            barrier.issued += x.descriptor.bytes
            barrier.copies.append(x)
            barrier.advance()
            places = self._places(x)
            self.shared.races.store_async(program, thread, places, instruction)
            self.shared.data[program, place : place + x.descriptor.bytes] = 0xFF

    def store(
        self,
        descriptor: Array,
        first: Sequence[Array],
        source: Array,
        mask: Array | None,
        instruction: Instruction,
    ) -> None:
        """Start a copy of a tile from shared memory."""
        active = self._active(mask, descriptor, source, *reversed(first))
        for program, _, handle, place, *start in active:
            x = _Copy(self.descriptors[handle], tuple(start), place, instruction)
            units = np.unique(self._places(x) // self.shared.races.unit)
            self.shared.races.load_async(np.array([program]), units, instruction)
            self.open[program].append(x)

    def commit(self, mask: Array | None) -> None:
        for program in {row[0] for row in self._active(mask)}:
            self.groups[program].append(self.open[program])
            self.open[program] = []

    def wait_group(self, pending: int) -> None:
        """Let all but the last `pending` groups of copies to global memory be done."""
        for program, groups in enumerate(self.groups):
            while len(groups) > pending:
                for x in groups.pop(0):
                    self._write(program, x)

    def _write(self, program: int, x: _Copy) -> None:
        address, inside = x.descriptor.addresses(x.first)
        places = self._places(x)[inside]
        values = self.shared.data[program].view(f"u{x.descriptor.size}")[
            places // x.descriptor.size
        ]
        number, shape = self.number[program : program + 1], (1, len(values))
        self.memory.store(
            address[inside][None], x.descriptor.size, [values[None]], None, number, shape,
            x.instruction,
        )  # fmt: skip

    def _read(self, program: int, x: _Copy) -> None:
        address, inside = x.descriptor.addresses(x.first)
        (values,) = self.memory.load(
            address[None], x.descriptor.size, 1, inside[None],
            self.number[program : program + 1], x.instruction,
        )  # fmt: skip
        values = np.where(inside, values[0], values.dtype.type(0))
        words = self.shared.data[program].view(values.dtype)
        words[self._places(x) // x.descriptor.size] = values

    def _places(self, x: _Copy) -> Ints:
        if x.place < 0 or x.place + x.descriptor.bytes > self.shared.size:
            self.faults.stop("bulk copy out of bounds of shared memory", x.instruction)
        return x.descriptor.places(x.place)

    def _barrier(self, program: int, place: int, instruction: Instruction) -> _Barrier:
        if place not in self.barriers[program]:
            self.faults.stop("use of a barrier that is not initialised", instruction)
        return self.barriers[program][place]

    def _active(self, mask: Array | None, *values: Array) -> list[tuple[int, ...]]:
        """Return program, thread and values of the active threads; one thread if all are alike."""
        shape = self.shared.shape
        if mask is None and all(x.shape[1] == 1 for x in values):
            shape = shape[0], 1
        active = np.broadcast_to(True if mask is None else mask, shape)
        columns = [np.broadcast_to(x.view(f"i{x.itemsize}"), shape)[active] for x in values]
        rows = zip(*np.nonzero(active), *columns, strict=True)
        return [tuple(int(x) for x in row) for row in rows]
