"""Tiling of large tensors on a CPU, so that intermediate results fit its caches.

A tensor larger than the cache goes to memory and back between any two operations. Above 32 MB,
glibc also maps new memory for each allocation, whose pages the system has to clear first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastsam2.modeling.cached_tensor import is_traced

__all__ = ["by_rows", "in_pieces", "objects_in_cache", "rows_in_cache"]

#: Bytes of a tile per channel and thread: some hundred channels fit an L2 cache.
_CHANNEL_BYTES = 8192
#: Tokens of a batch of objects: 2048 channels of them are 32 MB in float32.
_TOKENS = 4096


def in_pieces(x: Tensor) -> bool:
    """True if work on `x` is tiled: on a CPU, unless a compiler makes its own schedule."""
    return x.device.type == "cpu" and not is_traced()


def rows_in_cache(x: Tensor) -> int:
    """Return the number of rows of `x` in a tile."""
    return _CHANNEL_BYTES // x.element_size() * torch.get_num_threads()


def objects_in_cache(pix_feat: Tensor, objects: int) -> int:
    """Return the number of objects in a tile, for frame features `[1, C, H, W]`; all `objects` if
    work on these features is not tiled."""
    if not in_pieces(pix_feat):
        return objects
    return max(1, _TOKENS // pix_feat.shape[-2:].numel())


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `function(x)` for `x` `[N, L, C]`, computed in tiles of rows.

    Args:
        function: maps each row independently of the others; its intermediate results are several
            times as wide as `x`.
    """
    if not in_pieces(x):
        return function(x)
    return torch.cat([function(rows) for rows in x.split(rows_in_cache(x) // 4, dim=1)], dim=1)
