"""Rotary position embedding in Triton, applied once to what an attention kernel reads many times.

A tile that is rotated on load passes through registers. One that is loaded as it is goes straight
into shared memory, from which the tensor cores read it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES

__all__ = ["rotated", "rotate_variant"]

_ROWS, _WARPS = 16, 4  #: of a program


# L affects masks only; specialising on it would compile more versions.
@triton.jit(do_not_specialize=["L"])
def rotate_kernel(  # type: ignore[no-untyped-def]
    x,  # [N, L, D], of strides s_n, s_l, 1
    cos,  # [L, D/2] float32
    sin,  # [L, D/2] float32
    out,  # [N, L, D], written
    L,
    s_n,
    s_l,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    H: tl.constexpr = D // 2
    i_l, i_n = tl.program_id(0) * BLOCK_L, tl.program_id(1).to(tl.int64)
    o_l = tl.arange(0, BLOCK_L)[:, None]
    o_h = tl.arange(0, H)[None, :]
    m_l = i_l + o_l < L

    # [BL, D/2]
    p_x = x + i_n * s_n + i_l.to(tl.int64) * s_l + o_l * s_l + o_h
    b_1 = tl.load(p_x, mask=m_l, other=0.0).to(tl.float32)
    b_2 = tl.load(p_x + H, mask=m_l, other=0.0).to(tl.float32)
    # [BL, D/2]
    o_angle = (i_l + o_l) * H + o_h
    b_cos = tl.load(cos + o_angle, mask=m_l, other=0.0)
    b_sin = tl.load(sin + o_angle, mask=m_l, other=0.0)
    # [BL, D/2]
    p_out = out + (i_n * L + i_l) * D + o_l * D + o_h
    tl.store(p_out, (b_1 * b_cos - b_2 * b_sin).to(out.dtype.element_ty), mask=m_l)
    tl.store(p_out + H, (b_2 * b_cos + b_1 * b_sin).to(out.dtype.element_ty), mask=m_l)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `rotary.rotate(x, cos, sin)` for `x` [N, L, D] with contiguous rows.

    Objects that share storage (`expand`) share it in the result.
    """
    n, length, dim = x.shape
    distinct = x[:1] if x.stride(0) == 0 else x
    out = torch.empty_like(distinct, memory_format=torch.contiguous_format)
    rotate_kernel[(triton.cdiv(length, _ROWS), len(distinct))](
        distinct, cos, sin, out, length, x.stride(0), x.stride(1),
        D=dim, BLOCK_L=_ROWS, num_warps=_WARPS,
    )  # fmt: skip
    return out.expand(n, -1, -1)


def rotate_variant(op: str, dim: int, dtype: torch.dtype, capability: int) -> Variant:
    """Return the kernel as an op launches it on rows of width `dim`, to be compiled."""
    name = TRITON_NAMES[dtype]
    tensors = {"x": f"*{name}", "cos": "*fp32", "sin": "*fp32", "out": f"*{name}"}
    return Variant(
        op=op,
        kernel=rotate_kernel,
        label=f"{name} D{dim} rotate",
        capability=capability,
        signature=tensors | {"L": "i32", "s_n": "i32", "s_l": "i32"},
        constants={"D": dim, "BLOCK_L": _ROWS},
        num_warps=_WARPS,
        num_stages=3,
        has_dot=False,
        aligned=(*tensors, "s_n", "s_l"),
    )
