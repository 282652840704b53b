"""Combine step of attention whose keys are split over several programs (split-KV)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES

__all__ = ["combine", "combine_variant"]

_ROWS, _WARPS = 16, 4  #: of a program


# The numbers of rows and splits change between calls and must not recompile.
@triton.jit(do_not_specialize=["rows", "splits"])
def combine_kernel(  # type: ignore[no-untyped-def]
    partial,  # [splits, rows, D] float32, each normalised
    logsumexp,  # [splits, rows] float32, in base 2; -inf for an empty split
    out,  # [rows, D], written
    rows,
    splits,
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    m_r = o_r < rows
    # [BR, D]
    o_rd = o_r[:, None] * D + tl.arange(0, D)[None, :]
    stride = tl.cast(rows, tl.int64)
    b_max = tl.full([BLOCK_R], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_R], tl.float32)
    b_acc = tl.zeros([BLOCK_R, D], tl.float32)
    for i_s in range(splits):
        # [BR]
        b_lse = tl.load(logsumexp + i_s * stride + o_r, mask=m_r, other=float("-inf"))
        # [BR, D]
        b_part = tl.load(partial + i_s * stride * D + o_rd, mask=m_r[:, None], other=0.0)
        b_new = tl.maximum(b_max, b_lse)
        # Before the first non-empty split both are -inf, and their difference would be NaN.
        b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_alpha = tl.exp2(b_max - b_base)
        b_weight = tl.exp2(b_lse - b_base)
        b_sum = b_sum * b_alpha + b_weight
        b_acc = b_acc * b_alpha[:, None] + b_part * b_weight[:, None]
        b_max = b_new
    b_out = b_acc / tl.where(b_sum > 0, b_sum, 1.0)[:, None]
    tl.store(out + o_rd, b_out.to(out.dtype.element_ty), mask=m_r[:, None])


def combine(partial: Tensor, logsumexp: Tensor, out: Tensor) -> None:
    """Write the weighted sum of partial results to `out`; zeros where every split is empty.

    Args:
        partial: float32 [splits, ..., D], each normalised, contiguous.
        logsumexp: float32 [splits, ...], log2 of the sum of exponentials of each split.
        out: [..., D], contiguous.
    """
    rows = out.numel() // out.shape[-1]
    combine_kernel[(triton.cdiv(rows, _ROWS),)](
        partial, logsumexp, out, rows, len(partial),
        D=out.shape[-1], BLOCK_R=_ROWS, num_warps=_WARPS,
    )  # fmt: skip


def combine_variant(op: str, dim: int, dtype: torch.dtype, capability: int) -> Variant:
    """Return the combine step of an op with results of width `dim`, to be compiled."""
    name = TRITON_NAMES[dtype]
    signature = {"partial": "*fp32", "logsumexp": "*fp32", "out": f"*{name}"}
    return Variant(
        op=op,
        kernel=combine_kernel,
        label=f"{name} D{dim} combine",
        capability=capability,
        signature=signature | {"rows": "i32", "splits": "i32"},
        constants={"D": dim, "BLOCK_R": _ROWS},
        num_warps=_WARPS,
        num_stages=3,
        has_dot=False,
    )
