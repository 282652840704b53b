"""Launch parameters: a rule on shape, dtype and GPU, which measurements override."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import capability_of, family, measured, processors

__all__ = ["DIMS", "Launch", "choose", "launch_for", "tile"]

#: Widths the kernels are compiled for.
DIMS = (128, 256)

#: Multiprocessors of a typical GPU of each capability, for use without the GPU.
_PROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148}

#: Cost of a split of the keys beyond its tiles, in tiles: its queries are read again, and
#: its float32 result is written and read once more (estimated, not measured).
_SPLIT_OVERHEAD = 5


@dataclass(frozen=True)
class Launch:
    """Launch parameters of the attention kernel.

    Attributes:
        block_m, block_n: queries and keys of a tile.
        num_warps, num_stages: launch options of a program.
        splits: number of splits of the keys, which run in parallel.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    splits: int = 1


# Each compiles without spills and within the shared memory of its GPU; 128 rows where they fit, so
# that each tile of keys read from the L2 cache serves more queries, and 3 stages or more, so that
# one tile is copied while another is used.
_HALF = {
    (80, 256): Launch(64, 32, 4, 3),
    (89, 256): Launch(32, 32, 4, 3),
    (90, 256): Launch(128, 32, 8, 4),
    (100, 256): Launch(128, 32, 8, 3),
    (80, 128): Launch(128, 64, 8, 3),
    (89, 128): Launch(64, 64, 4, 3),
    (90, 128): Launch(128, 64, 8, 3),
    (100, 128): Launch(128, 64, 8, 3),
}
# Float32 takes three TF32 products, whose registers and copies limit the tile.
_SINGLE = {
    (80, 256): Launch(16, 16, 2, 3),
    (89, 256): Launch(16, 16, 2, 3),
    (90, 256): Launch(16, 32, 4, 3),
    (100, 256): Launch(16, 32, 4, 3),
    **{(family, 128): Launch(16, 32, 4, 3) for family in (80, 89, 90, 100)},
}


def tile(dim: int, dtype: torch.dtype, capability: int) -> Launch:
    """Return the tile for rows of width `dim`, independent of their number."""
    table = _SINGLE if dtype == torch.float32 else _HALF
    return table[family(capability), dim]


@functools.lru_cache(maxsize=1024)
def choose(
    n: int,
    length: int,
    dim: int,
    dtype: torch.dtype,
    capability: int,
    multiprocessors: int | None = None,
) -> Launch:
    """Return tile and number of splits for `n` sequences of `length` rows of width `dim`.

    A tile occupies a whole multiprocessor, so the number of splits minimises the waves of tiles
    over the GPU.

    Args:
        capability: such as 90.
        multiprocessors: number of multiprocessors; None for a typical GPU of that capability.
    """
    launch = tile(dim, dtype, capability)
    if multiprocessors is None:
        multiprocessors = _PROCESSORS[family(capability)]
    query_tiles = n * -(-length // launch.block_m)
    key_tiles = -(-length // launch.block_n)

    def cost(splits: int) -> int:
        rounds = -(-query_tiles * splits // multiprocessors)
        return rounds * (-(-key_tiles // splits) + (_SPLIT_OVERHEAD if splits > 1 else 0))

    # Ties go to fewer splits: less to write and combine.
    best = min(range(1, max(1, min(key_tiles, 16)) + 1), key=cost)
    return replace(launch, splits=best)


@functools.lru_cache(maxsize=1024)
def launch_for(device: torch.device, n: int, length: int, dim: int, dtype: torch.dtype) -> Launch:
    """Return the launch measured on `device`, or the rule's choice."""
    if device.type != "cuda":
        # In the interpreter, larger tiles take fewer steps.
        return replace(choose(n, length, dim, dtype, 90), block_m=128, block_n=128, splits=2)
    chosen = choose(n, length, dim, dtype, capability_of(device), processors(device))
    found = measured("rope_attention", device, n=n, length=length, dim=dim, dtype=dtype)
    return replace(chosen, **found)
