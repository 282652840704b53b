"""Matrix unit of sm_90: asynchronous products (`wgmma`) of operands in shared memory."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.emulator.arithmetic import from_bf16, matrix_a, unpack
from tests.emulator.faults import Faults
from tests.emulator.ptx import Instruction
from tests.emulator.shared import SharedMemory

__all__ = ["MatrixUnit"]

Array = NDArray[np.generic]
Ints = NDArray[np.int64]

WARP_GROUP = 128

#: Content of an accumulator until the wait.
_PENDING = np.full((1, 1), np.nan, np.float32).view(np.uint32)

#: Bytes of a row of a swizzled tile by the mode in a descriptor.
_SWIZZLES = {0: 16, 1: 128, 2: 64, 3: 32}


@dataclass
class _Group:
    """Products that are committed together.

    Attributes:
        results: accumulators by number of register.
        loads: units of shared memory that products read, with a mask of the programs that do.
    """

    results: dict[int, Array] = field(default_factory=dict)
    loads: list[tuple[Array, Ints]] = field(default_factory=list)


class MatrixUnit:
    """Products under way of a batch of programs."""

    def __init__(self, shared: SharedMemory, faults: Faults) -> None:
        self.shared = shared
        self.faults = faults
        self.open = _Group()
        self.groups: list[_Group] = []

    def take(self, chosen: Array, shared: SharedMemory) -> MatrixUnit:
        """Return the unit of the chosen programs, whose memory is `shared`."""

        def cut(group: _Group) -> _Group:
            return _Group(
                {register: x[chosen] for register, x in group.results.items()},
                [(programs[chosen], units) for programs, units in group.loads],
            )

        new = copy.copy(self)
        new.shared = shared
        new.open, new.groups = cut(self.open), [cut(group) for group in self.groups]
        return new

    def multiply(
        self,
        file: list[Array],
        registers: Sequence[int],
        a: Sequence[Array] | Array,
        b: Array,
        accumulate: Array,
        form: tuple[str, str],
        transposed: tuple[int, int],
        instruction: Instruction,
    ) -> None:
        """Start a product; its result is in the register file after the wait.

        Args:
            registers: numbers of the accumulators.
            a: fragments, or a descriptor.
            b: descriptor.
            accumulate: predicate; where it is false the accumulators count as zero.
            form: shape, such as `m64n128k16`, and type of the operands.
            transposed: of each operand, 1 if K is not its contiguous dimension.
        """
        shape, kind = form
        programs, threads = self.shared.shape
        groups = threads // WARP_GROUP
        n, k = (int(x) for x in re.findall(r"\d+", shape)[1:])
        if isinstance(a, np.ndarray):
            rows = self._operand(a, 64, k, kind, transposed[0], instruction)
        else:
            rows = matrix_a(a, kind, self.shared.shape).reshape(programs, groups, 64, k)
        columns = self._operand(b, n, k, kind, transposed[1], instruction)
        product = rows @ columns.swapaxes(-1, -2)
        # Register 4 j + 2 i + e is row 16 warp + 8 i + lane / 4, column 8 j + 2 (lane % 4) + e.
        product = product.reshape(programs, groups, 4, 2, 8, n // 8, 4, 2)
        product = product.transpose(5, 3, 7, 0, 1, 2, 4, 6).reshape(-1, programs, threads)
        for register, x in zip(registers, product, strict=True):
            old = self._newest(register, file).view(np.float32)
            self.open.results[register] = np.where(accumulate, old, np.float32(0)) + x
            file[register] = _PENDING

    def _newest(self, register: int, file: list[Array]) -> Array:
        for group in (self.open, *reversed(self.groups)):
            if register in group.results:
                return group.results[register]
        return file[register]

    def commit(self) -> None:
        self.groups = [*self.groups, self.open]
        self.open = _Group()

    def wait(self, file: list[Array], pending: int) -> None:
        """Write the results of all but the last `pending` groups to the register file."""
        done = self.groups[: len(self.groups) - pending]
        self.groups = self.groups[len(done) :]
        for group in done:
            for register, x in group.results.items():
                file[register] = x.view(np.uint32)
        for group in self.groups:
            for register in group.results:
                file[register] = _PENDING

    def barrier(self) -> None:
        """Note that products under way may still read their operands after a barrier."""
        for group in (*self.groups, self.open):
            for programs, units in group.loads:
                self.shared.races.hold(np.flatnonzero(programs), units)

    def _operand(
        self,
        descriptors: Array,
        rows: int,
        k: int,
        kind: str,
        transposed: int,
        instruction: Instruction,
    ) -> Array:
        """Return a matrix in shared memory as [programs, warp groups, rows, K] float32."""
        programs, threads = self.shared.shape
        size = 4 if kind == "tf32" else 2
        every = np.broadcast_to(descriptors, (programs, threads))
        every = every.reshape(programs, -1, WARP_GROUP)
        if (every != every[..., :1]).any():
            self.faults.stop("descriptors differ within a warp group", instruction)
        every = every[..., 0]
        strided, contiguous = (k, rows) if transposed else (rows, k)
        words = np.empty((*every.shape, strided, contiguous), f"u{size}")
        races = self.shared.races
        for descriptor in np.unique(every).tolist():
            address = _addresses(descriptor, strided, contiguous, size)
            units = _units(descriptor, strided, contiguous, size, races.unit)
            reading = (every == descriptor).any(1)
            program = np.flatnonzero(reading)
            found = self.shared.load_async(program, address, size, instruction)
            races.load_async(program, units, instruction)
            self.open.loads.append((reading, units))
            for group in range(every.shape[1]):
                same = every[program, group] == descriptor
                words[program[same], group] = found[same]
        numbers = from_bf16(words) if kind == "bf16" else unpack(words, kind)
        numbers = numbers.reshape(words.shape)
        return numbers.swapaxes(-1, -2) if transposed else numbers


@functools.lru_cache(maxsize=1024)
def _addresses(descriptor: int, strided: int, contiguous: int, size: int) -> Ints:
    """Return the addresses of the elements of a matrix [strided, contiguous].

    A descriptor has, in units of 16 bytes, the start at bit 0, the distance of tiles along the
    contiguous dimension at bit 16 and along the other at bit 32; the swizzle is at bit 62. A tile
    has 8 rows of the bytes of the swizzle.
    """
    start, lead, stride = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
    span = _SWIZZLES[descriptor >> 62]
    row, column = np.arange(strided)[:, None], np.arange(contiguous) * size
    address = start + row // 8 * stride + row % 8 * span + column // span * lead + column % span
    return swizzle(address, span)


@functools.lru_cache(maxsize=1024)
def _units(descriptor: int, strided: int, contiguous: int, size: int, unit: int) -> Ints:
    """Return the units of shared memory that a matrix occupies."""
    return np.unique(_addresses(descriptor, strided, contiguous, size) // unit)


def swizzle(address: Ints, span: int) -> Ints:
    """Exchange units of 16 bytes within rows of `span` bytes: bits 4 to 6 with bits 7 to 9."""
    return address ^ ((address >> 7 & span // 16 - 1) << 4)
