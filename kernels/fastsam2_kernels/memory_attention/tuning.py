"""Launch parameters of the kernel, and the number of splits of the memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from fastsam2_kernels.launch_config import capability_of, family, measured

__all__ = ["DIMS", "WIDTHS", "Launch", "choose", "choose_splits", "tuned"]

DIMS = (32, 64, 128, 256)  #: widths D of keys that the kernels take
WIDTHS = (16, 32, 64, 128)  #: widths M of latents

_MAX_SPLITS = 32
#: Maximum of programs a multiprocessor: more splits would balance the load little better, and the
#: partial results of many objects would take much memory.
_MAX_PROGRAMS = 16


@dataclass(frozen=True)
class Launch:
    """Tile of `block_m` queries by `block_n` memory tokens, and launch options."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def choose(queries: int, dim: int, dtype: torch.dtype, capability: int) -> Launch:
    """Return launch parameters by rule: large tiles that fit in shared memory and registers, with
    3 stages, so that one tile is copied while another is used.

    Args:
        queries: Lq.
        dim: width D of queries and keys.
        capability: of the GPU, as 10 * major + minor.
    """
    wide_and_small = dim > 128 and family(capability) == 89
    if dtype == torch.float32:
        # The three TF32 products need two parts of each operand, in registers.
        if dim <= 128:
            return Launch(32, 32, 4, 3)
        return Launch(16, 16, 2, 3) if wide_and_small else Launch(16, 32, 4, 3)
    if wide_and_small:
        return Launch(64, 32, 4, 3)
    if queries > 512:
        return Launch(128, 64, 8, 3)
    return Launch(64, 64, 8 if family(capability) == 100 else 4, 3)


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
        return rounds * (-(-tiles // splits) + 2) + 0.25 * splits

    most = min(_MAX_SPLITS, tiles, _MAX_PROGRAMS * multiprocessors // programs)
    return min(range(1, max(1, most) + 1), key=time)


@functools.cache
def tuned(
    objects: int, queries: int, tokens: int, dim: int, dtype: torch.dtype, device: torch.device
) -> Launch:
    """Return the parameters measured on this GPU for this call, or the rule's choice."""
    call = {"objects": objects, "queries": queries, "tokens": tokens, "dim": dim, "dtype": dtype}
    chosen = choose(queries, dim, dtype, capability_of(device))
    return replace(chosen, **measured("memory_attention", device, **call))
