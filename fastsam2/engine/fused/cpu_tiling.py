"""Work in pieces that a CPU's cache holds.

What is wider than the cache goes to memory and back between any two operations, and what is larger
than 32 MB is, with glibc, new memory each time, whose pages the system has to clear first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastsam2.modeling.cached_tensor import is_traced

__all__ = ["by_rows", "in_pieces", "objects_in_cache", "rows_in_cache"]

#: Of one channel, for each thread: some hundred channels of it fit an L2 cache.
_CHANNEL_BYTES = 8192
#: Of all objects at a time: 2048 channels of them are 32 MB in float32.
_TOKENS = 4096


def in_pieces(x: Tensor) -> bool:
    """Whether to work in pieces: where `x` is, and unless a compiler makes its own schedule."""
    return x.device.type == "cpu" and not is_traced()


def rows_in_cache(x: Tensor) -> int:
    """How many rows of `x` to work on at a time."""
    return _CHANNEL_BYTES // x.element_size() * torch.get_num_threads()


def objects_in_cache(pix_feat: Tensor, objects: int) -> int:
    """How many of the objects of a frame `[1, C, H, W]` to work on at a time: all where maps are
    small."""
    if not in_pieces(pix_feat):
        return objects
    return max(1, _TOKENS // pix_feat.shape[-2:].numel())


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, which treats the rows of `x` `[N, L, C]` alike and apart, and on the way makes
    them several times as wide."""
    if not in_pieces(x):
        return function(x)
    return torch.cat([function(rows) for rows in x.split(rows_in_cache(x) // 4, dim=1)], dim=1)
