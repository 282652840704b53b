"""Count the binaries that the frames of a video need: `python -m tests.kernels.binaries`.

Kernels are launched on a stub of Triton's driver, which compiles and runs nothing. This needs a
process of its own, in which kernels are not interpreted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from fastsam2_kernels.dispatch import has_gluon
from fastsam2_kernels.memory_attention import PagedMemory
from fastsam2_kernels.memory_attention import kernel as memory_attention
from fastsam2_kernels.memory_keys import kernel as memory_keys

TOKENS, DIM, WIDTH, DTYPE = 64, 256, 64, torch.bfloat16
BINARIES: defaultdict[str, set[str]] = defaultdict(set)


class StubDriver:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def note(*, key: str, fn: Any, **_: Any) -> bool:
    """Record a binary that is not in the cache; True keeps it from being compiled."""
    BINARIES[fn.name].add(key)
    return True


def run_frame(objects: int, reads: int, pointers: int) -> None:
    """Launch the kernels for objects that each read so many memories and pointer tokens."""
    rows = objects * reads
    # As uploaded: views of one copy.
    sizes = [rows, rows, rows, objects, objects * pointers, objects * pointers, objects]
    tables = torch.zeros(sum(sizes), dtype=torch.int32).split(sizes)
    slots, times, rows_read, num_reads, _, _, num_pointers = tables

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=DTYPE)

    angles = torch.empty(2, TOKENS, DIM // 2)
    latents = empty(rows + 1, TOKENS, WIDTH)
    weight, bias = empty(4, DIM, WIDTH), empty(4, DIM)
    positions = empty(TOKENS, WIDTH), empty(7, WIDTH)
    keys = memory_keys.launch(latents, *positions, weight, bias, *angles, slots, times)
    memory = PagedMemory(
        keys[0],
        latents,
        slots[rows_read.long()].view(objects, reads),
        rows_read.view(objects, reads),
        num_reads,
        empty(objects, pointers, DIM),
        empty(objects, pointers, WIDTH),
        num_pointers,
    )
    q = empty(1, TOKENS, DIM)
    for queries in (q.expand(objects, -1, -1), q.repeat(objects, 1, 1)):
        memory_attention.launch(queries, memory, *angles, DIM**-0.5)
        if has_gluon():
            from fastsam2_kernels.memory_attention import gluon_kernel

            gluon_kernel.launch(queries, memory, *angles, DIM**-0.5)


def main() -> None:
    driver.set_active(StubDriver())
    knobs.runtime.jit_cache_hook = note
    for frame in range(1, 18):
        run_frame(1, min(frame, 7), 4 * min(frame, 16))
    for objects in (2, 3, 8, 16, 17, 128):
        run_frame(objects, 7, 64)
    print(json.dumps({name: len(keys) for name, keys in BINARIES.items()}))


if __name__ == "__main__":
    main()
