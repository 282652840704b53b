"""Rotary positions in half-split channel order, shared by the ops that apply them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["turn", "turn_into"]


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i of `x` [..., L, D] with channel i + D/2 by the tables [L, D/2].

    Computed in float32 at least, as the tables are; the dtype stays.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    low, high = x.to(dtype).chunk(2, dim=-1)
    cos, sin = cos.to(dtype), sin.to(dtype)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def turn_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """As `turn`, in few passes over memory, without gradients; `out` may not be `x`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    turned = out if out.dtype == dtype else torch.empty_like(out, dtype=dtype)
    low, high = x.to(dtype).chunk(2, dim=-1)
    turned_low, turned_high = turned.chunk(2, dim=-1)
    cos, sin = cos.to(dtype), sin.to(dtype)
    torch.mul(low, cos, out=turned_low).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=turned_high).addcmul_(low, sin)
    if turned is not out:
        out.copy_(turned)
