"""Self-attention with rotary positions in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["rope_attention_reference", "turn"]


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of channels (i, i + D / 2) of `x` [..., L, D] by the angles of [L, D / 2].

    Computed in float32, or in float64 if `x` is; the dtype stays.
    """
    low, high = x.chunk(2, dim=-1)
    turned = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
    return turned.to(x.dtype)


def rope_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, scale: float
) -> Tensor:
    """The specification of `op.rope_attention`, and its path on the CPU: any floating dtype.

    PyTorch's attention is flash attention on the CPU in any of them, as long as queries, keys and
    values are equally wide.
    """
    q, k = turn(q, cos, sin), turn(k, cos, sin)
    # One head: the layout that the fast kernels of PyTorch take has an axis for it.
    out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)
    return out[:, 0].contiguous()
