"""Race detector of shared memory: accesses that no barrier orders, and missing proxy fences."""

from __future__ import annotations

import copy

import numpy as np
import triton
from numpy.typing import NDArray
from packaging.version import Version

from tests.emulator.faults import Faults
from tests.emulator.ptx import Instruction, Kernel

__all__ = ["RaceDetector", "store_unit"]

Array = NDArray[np.generic]
Ints = NDArray[np.int64]

# A stamp is the number of barriers so far, of barriers of warps since the last of them, and a
# thread. Negative: threads of one warp, given by its first, or of several warps.
_EPOCH, _WARP_EPOCH = 24, 11
_THREAD = 2**_WARP_EPOCH - 1
_SEVERAL = _THREAD

#: Earlier versions of Triton put no proxy fence between `cp.async` and the matrix unit.
_FENCES_COPIES = Version(triton.__version__) >= Version("3.7")


def store_unit(kernel: Kernel) -> int:
    """Return the bytes of the smallest store to shared memory, at most 16.

    All stores are aligned, so accesses that overlap share a unit of this size.
    """
    sizes = [16]
    for block in kernel.blocks:
        for instruction in block:
            opcode = instruction.opcode
            if opcode[0] == "st" and opcode[1].startswith("shared"):
                vector = {"v2": 2, "v4": 4}.get(opcode[-2], 1)
                sizes.append(vector * int(opcode[-1][1:]) // 8)
            elif opcode[0] == "stmatrix":
                sizes.append(2 if "trans" in opcode else 4)
            elif opcode[:2] == ("cp", "async") and "global" in opcode and "bulk" not in opcode:
                sizes.append(int(instruction.operands[2], 0))
    return min(sizes)


class RaceDetector:
    """Last accesses of each unit of shared memory.

    Two accesses by different threads, one of them a store, race unless a barrier lies between, or a
    barrier of their warp if they are in one. Redundant stores of one value by one instruction do
    not.

    Args:
        programs: number of programs.
        size: bytes of shared memory of a program.
        unit: bytes that are tracked together.
    """

    def __init__(self, programs: int, size: int, unit: int, faults: Faults) -> None:
        self.unit = unit
        self.faults = faults
        self.epoch, self.warp_epoch, self.fences = 1, 0, 0
        shape = programs, -(-size // unit)
        self.writers, self.readers = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        # Number of fences at the last store; -1 without one that the matrix unit may miss.
        self.fenced = np.full(shape, -1, np.int64)

    def take(self, chosen: Array) -> RaceDetector:
        """Return the same for the chosen programs only."""
        new = copy.copy(self)
        for name in ("writers", "readers", "fenced"):
            setattr(new, name, getattr(self, name)[chosen])
        return new

    def barrier(self) -> None:
        self.epoch, self.warp_epoch = self.epoch + 1, 0

    def warp_barrier(self) -> None:
        self.warp_epoch += 1

    def fence(self) -> None:
        """Make earlier stores visible to the matrix unit and to bulk copies."""
        self.fences += 1

    @property
    def _now(self) -> int:
        return self.epoch << _EPOCH | self.warp_epoch << _WARP_EPOCH

    def units(self, address: Ints, size: int) -> Ints:
        """Return the units of accesses of `size` bytes, with one more axis."""
        return address[..., None] // self.unit + np.arange(max(1, size // self.unit))

    def store(
        self, program: Ints, thread: Ints, address: Ints, size: int, instruction: Instruction
    ) -> None:
        """Check stores of `size` bytes at addresses [accesses] by the threads given."""
        at, stamp = (program[:, None], self.units(address, size)), self._now | thread[:, None]
        self._compare(self.writers[at], stamp, "store after store", instruction)
        self._compare(self.readers[at], stamp, "store after load", instruction)
        self.writers[at] = stamp
        self.fenced[at] = self.fences if self._needs_fence(instruction) else -1

    @staticmethod
    def _needs_fence(instruction: Instruction) -> bool:
        """True if the matrix unit may miss a store without a proxy fence after it."""
        return _FENCES_COPIES or instruction.opcode[:2] != ("cp", "async")

    def load(
        self,
        program: Ints,
        thread: Ints,
        address: Ints,
        size: int,
        instruction: Instruction,
        *,
        by_warp: bool = False,
    ) -> None:
        """Check loads; `by_warp` if all lanes of the warp of `thread`, its first, share them."""
        at, stamp = (program[:, None], self.units(address, size)), self._now | thread[:, None]
        self._compare(self.writers[at], stamp, "load after store", instruction)
        mine = -stamp if by_warp else stamp
        old = self.readers[at]
        fresh = (np.abs(old) >> _EPOCH != self.epoch) | (old == mine)
        new = np.where(fresh, mine, self._joint(old, stamp))
        self.readers[at] = new
        # Several threads may load one unit at once: the last of them is there.
        found = self.readers[at]
        if (found == new).all():
            return
        joint = np.where(found == new, found, self._joint(found, stamp))
        self.readers[at] = joint
        several = joint == -(self._now | _SEVERAL)
        row, unit = (x[several] for x in np.broadcast_arrays(*at))
        self.readers[row, unit] = -(self._now | _SEVERAL)

    def load_async(self, program: Ints, units: Ints, instruction: Instruction) -> None:
        """Check loads by the matrix unit.

        They last until the wait: `hold` must be called after each barrier up to there.
        """
        at = program[:, None], units
        if (np.abs(self.writers[at]) >> _EPOCH == self.epoch).any():
            self.faults.add("race in shared memory: matrix unit loads after store", instruction)
        if (self.fenced[at] == self.fences).any():
            self.faults.add("no proxy fence between store and the matrix unit", instruction)
        self.hold(program, units)

    def hold(self, program: Ints, units: Ints) -> None:
        """Note that the matrix unit may be loading these units now."""
        self.readers[program[:, None], units] = -(self._now | _SEVERAL)

    def store_async(
        self, program: int, thread: int, address: Ints, instruction: Instruction
    ) -> None:
        """Check stores of a bulk copy that `thread` issues."""
        at, stamp = (program, np.unique(address // self.unit)), np.int64(self._now | thread)
        self._compare(self.writers[at], stamp, "bulk copy after store", instruction)
        self._compare(self.readers[at], stamp, "bulk copy after load", instruction)
        self.writers[at], self.fenced[at] = 0, -1

    def _compare(self, old: Ints, stamp: Ints, what: str, instruction: Instruction) -> None:
        stamps = np.abs(old)
        recent = stamps >> _EPOCH == self.epoch
        if not recent.any():
            return
        before = (stamps >> _WARP_EPOCH & (2 ** (_EPOCH - _WARP_EPOCH) - 1)) < self.warp_epoch
        bad = recent & (old != stamp) & ~(before & self._same_warp(stamps, stamp))
        if bad.any():
            one = int(stamps[bad][0]) & _THREAD
            two = int(np.broadcast_to(stamp, bad.shape)[bad][0]) & _THREAD
            who = "several threads" if one == _SEVERAL else f"thread {one}"
            self.faults.add(
                f"race in shared memory: {what}", instruction, f"{who}, then thread {two}"
            )

    @staticmethod
    def _same_warp(one: Ints, two: Ints) -> Array:
        return (one & _THREAD) // 32 == (two & _THREAD) // 32

    def _joint(self, old: Ints, stamp: Ints) -> Ints:
        """Return the stamp of loads by a thread and by others."""
        first = (stamp & _THREAD) // 32 * 32
        return np.where(
            self._same_warp(np.abs(old), stamp), -(self._now | first), -(self._now | _SEVERAL)
        )
