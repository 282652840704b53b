"""Rotary position embedding in half-split channel order, shared by several ops."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotate", "rotate_into"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channels i and i + D/2 of `x` [..., L, D] by the tables [L, D/2].

    Computed in at least float32, the dtype of the tables; the result has the dtype of `x`.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    low, high = x.to(dtype).chunk(2, dim=-1)
    cos, sin = cos.to(dtype), sin.to(dtype)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Like `rotate`, in fewer passes over memory and without gradients; `out` must not be `x`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    rotated = out if out.dtype == dtype else torch.empty_like(out, dtype=dtype)
    low, high = x.to(dtype).chunk(2, dim=-1)
    rotated_low, rotated_high = rotated.chunk(2, dim=-1)
    cos, sin = cos.to(dtype), sin.to(dtype)
    torch.mul(low, cos, out=rotated_low).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=rotated_high).addcmul_(low, sin)
    if rotated is not out:
        out.copy_(rotated)
