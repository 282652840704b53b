"""Global memory: the tensors of a launch, with bounds, alignment and races between programs."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tests.emulator.faults import Faults
from tests.emulator.ptx import Instruction

__all__ = ["Argument", "GlobalMemory"]

Array = NDArray[np.generic]
Access = Literal["load", "store", "atomic"]

# Addresses of tensors are indices into the memory of the process; all are checked before use.
_START, _END = 4096, 2**47
_PROCESS = np.frombuffer((ctypes.c_uint8 * (_END - _START)).from_address(_START), np.uint8)
_WORDS = {size: _PROCESS.view(f"u{size}") for size in (1, 2, 4, 8)}

#: Accesses of another program that must not meet an access of each kind.
_CONFLICTS: dict[Access, tuple[Access, ...]] = {
    "load": ("store", "atomic"),
    "store": ("load", "store", "atomic"),
    "atomic": ("load", "store"),
}
_SEVERAL = -1

_ATOMICS = {
    "add": lambda old, x: old + x,
    "min": min,
    "max": max,
    "and": lambda old, x: old & x,
    "or": lambda old, x: old | x,
    "xor": lambda old, x: old ^ x,
    "exch": lambda old, x: x,
    "cas": lambda old, compared, x: x if old == compared else old,
}


@dataclass(frozen=True)
class Argument:
    """A tensor that a kernel gets a pointer to."""

    name: str
    tensor: torch.Tensor
    written: bool

    @property
    def range(self) -> tuple[int, int]:
        """First address and that after the last."""
        tensor = self.tensor
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        return start, start + (last + 1) * tensor.element_size()


@dataclass
class _Area:
    """Tensors that overlap.

    Attributes:
        unit: bytes of the smallest element.
        stamps: for each access, the program + 1 that did it to each element; 0 for none, -1 for
            several. Empty if the kernel does not write here.
    """

    names: list[str]
    start: int
    stop: int
    unit: int
    written: bool
    stamps: dict[Access, NDArray[np.int32]] = field(default_factory=dict)

    def distance(self, place: int) -> int:
        return max(self.start - place, place - self.stop)

    def relative(self, place: int) -> str:
        names = "=".join(self.names)
        if place < self.start:
            return f"{self.start - place} bytes before {names}"
        return f"byte {place - self.start} of {names}, which has {self.stop - self.start}"


class GlobalMemory:
    """The tensors of a launch.

    Args:
        racing: names of arguments with which races between programs are allowed.
    """

    def __init__(
        self,
        arguments: Sequence[Argument],
        faults: Faults,
        racing: Collection[str],
        random: np.random.Generator,
    ) -> None:
        self.faults = faults
        self.random = random
        self.areas: list[_Area] = []
        for argument in sorted(arguments, key=lambda a: a.range):
            if not argument.tensor.numel():
                continue
            (start, stop), unit = argument.range, argument.tensor.element_size()
            if not self.areas or start >= self.areas[-1].stop:
                self.areas.append(_Area([], start, stop, unit, False))
            area = self.areas[-1]
            area.names.append(argument.name)
            area.stop, area.unit = max(area.stop, stop), min(area.unit, unit)
            area.written |= argument.written
        for area in self.areas:
            if area.written and not {*area.names} & {*racing}:
                units = -(-(area.stop - area.start) // area.unit)
                area.stamps = {access: np.zeros(units, np.int32) for access in _CONFLICTS}
        self.starts = np.array([area.start for area in self.areas], np.int64)

    def load(
        self,
        address: Array,
        size: int,
        count: int,
        mask: Array | None,
        programs: Array,
        instruction: Instruction,
    ) -> list[Array]:
        """Return `count` adjacent words of `size` bytes at each address."""
        index = self.check("load", address, size * count, mask, programs, instruction)
        if index is None:
            return [np.zeros((1, 1), f"u{size}")] * count
        return self.fetch(index, size, count)

    def fetch(self, address: Array, size: int, count: int) -> list[Array]:
        """Return words at addresses that have been checked."""
        index = (address - _START) // size
        return [_WORDS[size].take(index + i) for i in range(count)]

    def store(
        self,
        address: Array,
        size: int,
        values: Sequence[Array],
        mask: Array | None,
        programs: Array,
        shape: tuple[int, int],
        instruction: Instruction,
    ) -> None:
        """Store adjacent words of `size` bytes at each address."""
        address = np.broadcast_to(address, shape)
        index = self.check("store", address, size * len(values), mask, programs, instruction)
        if index is None:
            return
        index = (index - _START) // size
        chosen = slice(None) if mask is None else np.broadcast_to(mask, shape)
        for i, value in enumerate(values):
            where, x = index[chosen] + i, np.broadcast_to(value, shape)[chosen]
            _WORDS[size][where] = x
            if (_WORDS[size][where] != x).any():
                self.faults.add("two threads store different values at once", instruction)

    def atomic(
        self,
        address: Array,
        operation: str,
        values: Sequence[Array],
        mask: Array | None,
        programs: Array,
        shape: tuple[int, int],
        instruction: Instruction,
    ) -> Array:
        """Update the words at each address, in random order; returns the old ones."""
        address = np.broadcast_to(address, shape)
        old = np.zeros(shape, values[0].dtype)
        size = old.dtype.itemsize
        index = self.check("atomic", address, size, mask, programs, instruction)
        if index is None:
            return old
        words = _WORDS[size].view(old.dtype)
        values = [np.broadcast_to(x, shape) for x in values]
        active = np.argwhere(np.broadcast_to(True if mask is None else mask, shape))
        for row, column in self.random.permutation(active):
            place = (int(index[row, column]) - _START) // size
            old[row, column] = words[place]
            words[place] = _ATOMICS[operation](words[place], *(x[row, column] for x in values))
        return old

    def check(
        self,
        access: Access,
        address: Array,
        size: int,
        mask: Array | None,
        programs: Array,
        instruction: Instruction,
    ) -> NDArray[np.int64] | None:
        """Check accesses of `size` bytes.

        Args:
            programs: [programs, 1], the number of each program.

        Returns:
            Addresses, those that `mask` excludes replaced by valid ones; None if it excludes all.

        Raises:
            EmulationError: an address is out of bounds.
        """
        address = address.astype(np.int64)
        shape = np.broadcast_shapes(address.shape, () if mask is None else mask.shape)
        active = address
        if mask is not None:
            active = np.broadcast_to(address, shape)[np.broadcast_to(mask, shape)]
        if not active.size:
            return None
        if (active & (size - 1)).any():
            self.faults.add(f"misaligned {access} of {size} bytes", instruction)
        first, last = int(active.min()), int(active.max())
        areas = np.searchsorted(self.starts, (first, last), side="right") - 1
        chosen = [self.areas[i] for i in range(max(areas[0], 0), areas[1] + 1)]
        if len(chosen) != 1 or first < chosen[0].start or last + size > chosen[0].stop:
            self._check_each(access, active, size, instruction)
        for area in chosen:
            if area.stamps:
                everyone = np.broadcast_to(programs, np.broadcast_shapes(shape, programs.shape))
                if mask is None:
                    places = np.broadcast_to(address, everyone.shape).ravel()
                    self._stamp(area, access, places, size, everyone.ravel(), instruction)
                else:
                    there = np.broadcast_to(mask, everyone.shape)
                    places = np.broadcast_to(address, everyone.shape)[there]
                    self._stamp(area, access, places, size, everyone[there], instruction)
        return address if mask is None else np.where(mask, address, first)

    def _check_each(
        self, access: Access, active: NDArray[np.int64], size: int, instruction: Instruction
    ) -> None:
        number = np.searchsorted(self.starts, active, side="right") - 1
        stops = np.array([area.stop for area in self.areas] + [0], np.int64)
        outside = active + size > stops[number]
        if outside.any():
            place = int(active[outside][0])
            near = min(self.areas, key=lambda area: area.distance(place), default=None)
            detail = f"{place:#x}" if near is None else near.relative(place)
            self.faults.stop(f"{access} out of bounds", instruction, detail)

    def _stamp(
        self,
        area: _Area,
        access: Access,
        address: NDArray[np.int64],
        size: int,
        programs: NDArray[np.int64],
        instruction: Instruction,
    ) -> None:
        """Compare with earlier accesses of the same elements by other programs; record these."""
        inside = (address >= area.start) & (address < area.stop)
        if not inside.all():
            address, programs = address[inside], programs[inside]
        units = np.arange(max(1, size // area.unit))
        index = (address[:, None] - area.start) // area.unit + units
        mine = np.broadcast_to((programs[:, None] + 1).astype(np.int32), index.shape)
        for other in _CONFLICTS[access]:
            stamp = area.stamps[other][index]
            bad = (stamp != 0) & (stamp != mine)
            if bad.any():
                self._race(area, access, other, int(stamp[bad][0]), int(mine[bad][0]), instruction)
        stamps = area.stamps[access]
        stamp = stamps[index]
        stamps[index] = np.where((stamp == 0) | (stamp == mine), mine, _SEVERAL)
        collided = (stamps[index] != mine) & (stamps[index] != _SEVERAL)
        if collided.any():
            if access == "store":
                one, two = int(stamps[index][collided][0]), int(mine[collided][0])
                self._race(area, access, access, one, two, instruction)
            stamps[index[collided]] = _SEVERAL

    def _race(
        self,
        area: _Area,
        access: Access,
        other: Access,
        first: int,
        second: int,
        instruction: Instruction,
    ) -> None:
        who = "several programs" if first == _SEVERAL else f"program {first - 1}"
        self.faults.add(
            f"race between programs: {access} and {other} of {'='.join(area.names)}",
            instruction,
            f"{who} and program {second - 1}",
        )
