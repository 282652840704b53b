"""Launch parameters of the kernel, and the number of splits of the memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import capability_of, measured

__all__ = ["DIMS", "WIDTHS", "Launch", "choose", "choose_splits", "tuned"]

DIMS = (32, 64, 128, 256)  #: widths D of keys that the kernels take
WIDTHS = (16, 32, 64, 128)  #: widths M of latents

_MAX_SPLITS = 32


@dataclass(frozen=True)
class Launch:
    """Tile of `block_m` queries by `block_n` memory tokens, and launch options."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def choose(queries: int, tokens: int, dim: int, dtype: torch.dtype, capability: int) -> Launch:
    """Return launch parameters by rule: large tiles that fit in shared memory and registers.

    Args:
        queries: Lq.
        tokens: HW, tokens of one memory.
        dim: width D of queries and keys.
        capability: of the GPU, as 10 * major + minor.
    """
    if dtype == torch.float32:
        # The three TF32 products need two parts of each operand; masks take more registers.
        if capability in (80, 90) and tokens % 16 == 0:
            return Launch(64, 16, 8 if capability == 80 else 4, 2)
        # On 90, 4 warps would spill where latents are stored in bfloat16.
        return Launch(16, 32, 8 if capability == 90 else 4, 2)
    if capability in (80, 90):
        return Launch(64, 64, 4, 2) if queries <= 512 else Launch(128, 64, 8, 2)
    if capability in (100, 103):
        if queries <= 512:
            return Launch(64, 64, 8, 2)
        return Launch(128, 64 if tokens % 64 == 0 else 32, 8, 2)
    # 128 x 64 would need more than 99 KB at D = 256.
    return Launch(64, 64, 4, 2) if queries <= 512 or dim <= 128 else Launch(128, 32, 8, 2)


def choose_splits(programs: int, tiles: int, multiprocessors: int) -> int:
    """Return the number of splits of each object's memory (split-KV) that fills the GPU.

    Args:
        programs: programs without splits: objects times tiles of queries.
        tiles: maximum number of memory tiles of an object.
        multiprocessors: number of multiprocessors; each runs one program at a time.

    Returns:
        The number with the least estimated time: waves over the GPU, each as long as a split and
        the start of a program, plus the combine step.
    """

    def time(splits: int) -> float:
        rounds = -(-programs * splits // multiprocessors)
        return rounds * (-(-tiles // splits) + 2) + (4 + 0.25 * splits if splits > 1 else 0)

    return min(range(1, max(1, min(_MAX_SPLITS, tiles)) + 1), key=time)


@functools.cache
def tuned(
    objects: int, queries: int, tokens: int, dim: int, dtype: torch.dtype, device: torch.device
) -> Launch:
    """Return the parameters measured on this GPU for this call, or the rule's choice."""
    call = {"objects": objects, "queries": queries, "tokens": tokens, "dim": dim, "dtype": dtype}
    chosen = choose(queries, tokens, dim, dtype, capability_of(device))
    return replace(chosen, **measured("memory_attention", device, **call))
