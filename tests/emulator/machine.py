"""Execution of a launch: batches of programs that take the same branches."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tests.emulator.arithmetic import WARP, warps
from tests.emulator.faults import Faults
from tests.emulator.hopper import MatrixUnit
from tests.emulator.memory import Argument, GlobalMemory
from tests.emulator.ptx import EXIT, Instruction, Kernel, width
from tests.emulator.races import store_unit
from tests.emulator.shared import SharedMemory
from tests.emulator.tma import BulkCopies, Descriptor
from tests.emulator.translate import Block, translate

__all__ = ["Launch", "Program", "run"]

Array = np.ndarray

#: Threads of a batch, at least one program.
_BATCH = 8192


class Program:
    """A kernel, translated as far as it has been executed.

    Attributes:
        unit: bytes of its smallest store to shared memory.
        zeros: initial content of its registers.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.unit = store_unit(kernel)
        self.zeros = [
            np.zeros((1, 1), f"u{width(register)}" if width(register) else bool)
            for register in kernel.numbers
        ]
        self._blocks: dict[tuple[int, bool], Block] = {}

    def block(self, number: int, *, masked: bool) -> Block:
        key = number, masked
        if key not in self._blocks:
            self._blocks[key] = translate(self.kernel, number, masked=masked)
        return self._blocks[key]


@dataclass(frozen=True)
class Launch:
    """Arguments of a launch.

    Attributes:
        grid: number of programs on each axis.
        parameters: [1, 1] each, in the order of the kernel.
        arguments: the tensors among them.
        descriptors: tensor descriptors; a parameter is the index of one.
        shared: bytes of shared memory.
        seed: of the order of programs and of atomics.
    """

    grid: tuple[int, int, int]
    parameters: Sequence[Array]
    arguments: Sequence[Argument]
    descriptors: Sequence[Descriptor]
    shared: int
    seed: int


class Batch:
    """Programs that are at the same instruction, and their state.

    Attributes:
        number: [programs, 1], the number of each program in the grid.
        file: registers.
    """

    def __init__(
        self, program: Program, launch: Launch, numbers: Array, memory: GlobalMemory, faults: Faults
    ) -> None:
        threads = program.kernel.threads
        self.faults = faults
        self.memory = memory
        self.number = numbers[:, None]
        self.shape = len(numbers), threads
        self.thread = np.arange(threads, dtype=np.uint32)[None]
        self.lane = self.thread % np.uint32(WARP)
        self.threads = np.array([[threads]], np.uint32)
        self.zero = np.zeros((1, 1), np.uint32)
        self.grid = [np.array([[n]], np.uint32) for n in launch.grid]
        x, y, _ = launch.grid
        places = self.number % x, self.number // x % y, self.number // (x * y)
        self.program = [place.astype(np.uint32) for place in places]
        self.parameters = launch.parameters
        self.shared = SharedMemory(self.shape, launch.shared, program.unit, memory, faults)
        self.unit = MatrixUnit(self.shared, faults)
        self.bulk = BulkCopies(self.shared, memory, launch.descriptors, self.number, faults)
        self.file = [*program.zeros]

    def take(self, chosen: Array) -> Batch:
        """Return the batch of the chosen programs."""
        new = copy.copy(self)
        new.number = self.number[chosen]
        new.shape = len(new.number), self.shape[1]
        new.program = [place[chosen] for place in self.program]
        new.shared = self.shared.take(chosen)
        new.unit = self.unit.take(chosen, new.shared)
        new.bulk = self.bulk.take(chosen, new.shared)
        programs = self.shape[0]
        new.file = [x[chosen] if x.shape[0] == programs else x for x in self.file]
        return new

    def barrier(self) -> None:
        self.shared.races.barrier()
        self.unit.barrier()

    def warp_barrier(self) -> None:
        self.shared.races.warp_barrier()

    def proxy_fence(self) -> None:
        self.shared.races.fence()

    def check_threads(self, mask: Array, instruction: Instruction) -> None:
        """Check that all threads execute an instruction that needs them all."""
        if not mask.all():
            self.faults.stop("some threads of the program do not take part", instruction)

    def check_warps(self, mask: Array, instruction: Instruction) -> None:
        """Check that an instruction of a warp is executed by all of its threads or none."""
        active = warps(mask, self.shape)
        if (active != active[..., :1]).any():
            self.faults.stop("some threads of a warp do not take part", instruction)


def run(program: Program, launch: Launch, racing: Collection[str] = ()) -> None:
    """Execute a launch.

    Args:
        racing: arguments with which races between programs are allowed.

    Raises:
        EmulationError: the kernel is at fault.
        NotImplementedError: it has an instruction that the emulator lacks.
    """
    faults = Faults(program.kernel.name)
    random = np.random.default_rng(launch.seed)
    memory = GlobalMemory(launch.arguments, faults, racing, random)
    order = random.permutation(int(np.prod(launch.grid)))
    size = max(1, _BATCH // program.kernel.threads)
    # PTX does not trap on overflow, division by zero or NaN.
    with np.errstate(all="ignore"):
        for first in range(0, len(order), size):
            batch = Batch(program, launch, order[first : first + size], memory, faults)
            waiting = [(batch, 0)]
            while waiting:
                waiting += _advance(program, *waiting.pop())
    faults.check()


def _advance(program: Program, batch: Batch, block: int) -> list[tuple[Batch, int]]:
    """Execute a batch; programs that leave it at a branch are returned, with their block."""
    parted = []
    while block != EXIT:
        condition, target, other = program.block(block, masked=False)(batch, batch.file, None)
        if condition is None:
            block = target
            continue
        condition = np.broadcast_to(condition, (batch.shape[0], condition.shape[1]))
        every, some = condition.all(1), condition.any(1)
        if every.all() or not some.any():
            block = target if every.all() else other
            continue
        mixed = some & ~every
        for chosen, to in ((every, target), (~some, other)):
            if chosen.any():
                parted.append((batch.take(chosen), to))
        if not mixed.any():
            break
        if not mixed.all():
            batch, condition = batch.take(mixed), condition[mixed]
        block = _diverge(program, batch, block, None, condition, target, other)
    return parted


def _diverge(
    program: Program,
    batch: Batch,
    block: int,
    mask: Array | None,
    condition: Array,
    target: int,
    other: int,
) -> int:
    """Execute one side of a branch and then the other, up to the block where all meet again."""
    meeting = program.kernel.post_dominators[block]
    condition = np.broadcast_to(condition, batch.shape)
    every = np.ones(batch.shape, bool) if mask is None else mask
    for side, active in ((target, every & condition), (other, every & ~condition)):
        while side != meeting and active.any():
            condition, yes, no = program.block(side, masked=True)(batch, batch.file, active)
            if condition is None or (condition | ~active).all():
                side = yes
            elif not (condition & active).any():
                side = no
            else:
                side = _diverge(program, batch, side, active, condition, yes, no)
    return meeting
