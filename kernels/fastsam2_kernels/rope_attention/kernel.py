"""Flash attention with RoPE on queries and keys, split over the keys, in Triton.

`rotated` applies RoPE to queries and keys, `_attend_kernel` loops over one split of the keys, and
`combine` joins the splits.
"""

import itertools

import torch
import triton
import triton.language as tl

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES, dot_precision
from fastsam2_kernels.rope_attention.tuning import DIMS, Launch, launch_for, tile
from fastsam2_kernels.rotary_kernel import rotate_variant, rotated
from fastsam2_kernels.split_kv import combine, combine_variant

__all__ = ["launch", "variants"]

_LOG2_E = 1.4426950408889634


@triton.jit
def _load(p_x, m_x, MASKED: tl.constexpr):
    return tl.load(p_x, mask=m_x, other=0.0) if MASKED else tl.load(p_x)


# L affects masks only; specialising on it would compile more versions.
@triton.jit(do_not_specialize=["L"])
def _attend_kernel(
    q,  # [N, L, D], rotated; sequences s_qn apart
    k,  # [N, L, D], rotated; sequences s_kn apart
    v,  # [N, L, D], of strides s_vn, s_vl, 1
    out,  # [N, L, D]; or, if SPLIT, partial results [S, N, L, D] float32, each normalised
    lse,  # [S, N, L] float32: log2 of the sum of exponentials of a split; written if SPLIT
    scale,  # times log2(e), positive
    L,
    s_qn,
    s_kn,
    s_vn,
    s_vl,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN: tl.constexpr,  # BN divides L
    PRECISION: tl.constexpr,
):
    # The three TF32 products of float32 keep two parts of the queries in registers: half at a time.
    BD: tl.constexpr = D // 2 if PRECISION == "tf32x3" else D
    i_m, i_s, i_n = tl.program_id(0) * BM, tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m = tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_d = tl.arange(0, D)
    m_m = o_m < L - i_m
    # [BM, BD]
    p_q = q + i_n * s_qn + i_m.to(tl.int64) * D + o_m[:, None] * D + tl.arange(0, BD)[None, :]
    b_q = tl.load(p_q, mask=m_m[:, None], other=0.0)
    if BD < D:
        b_q2 = tl.load(p_q + BD, mask=m_m[:, None], other=0.0)

    b_max = tl.full([BM], float("-inf"), tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, D], tl.float32)
    k += i_n * s_kn
    v += i_n * s_vn
    # There are at most as many splits as tiles, so none is empty, and each tile has a key.
    tiles, parts = tl.cdiv(L, BN), tl.num_programs(1)
    first, last = i_s * tiles // parts, (i_s + 1) * tiles // parts
    # Otherwise a path around the loop sets the accumulator, for which wgmma waits.
    tl.assume(first < last)
    for i_t in range(first, last):
        i_k = i_t * BN
        m_n = i_k + o_n < L
        # [BD, BN]
        p_k = k + (i_k + o_n)[None, :] * D + tl.arange(0, BD)[:, None]
        # [BN, D]
        p_v = v + (i_k + o_n)[:, None].to(tl.int64) * s_vl + o_d[None, :]
        b_k = _load(p_k, m_n[None, :], not EVEN)
        b_v = _load(p_v, m_n[:, None], not EVEN)
        # [BM, BN]
        b_p = tl.dot(b_q, b_k, input_precision=PRECISION)
        if BD < D:
            b_k = _load(p_k + BD, m_n[None, :], not EVEN)
            b_p = tl.dot(b_q2, b_k, b_p, input_precision=PRECISION)
        if not EVEN:
            b_p = tl.where(m_n[None, :], b_p, float("-inf"))
        # [BM]
        b_new = tl.maximum(b_max, tl.max(b_p, 1) * scale)
        b_p = tl.exp2(b_p * scale - b_new[:, None])
        b_shrink = tl.exp2(b_max - b_new)
        b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
        b_max = b_new
        # [BM, D]
        b_acc = b_acc * b_shrink[:, None]
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc, input_precision=PRECISION)

    row = (i_s.to(tl.int64) * tl.num_programs(2) + i_n) * L + i_m
    # [BM, D]
    b_out = (b_acc / b_sum[:, None]).to(out.dtype.element_ty)
    p_out = out + row * D + o_m[:, None] * D + o_d[None, :]
    tl.store(p_out, b_out, mask=m_m[:, None])
    if SPLIT:
        tl.store(lse + row + o_m, b_max + tl.log2(b_sum), mask=m_m)


def launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    scale: float,
    *,
    out: torch.Tensor | None = None,
    params: Launch | None = None,
) -> torch.Tensor:
    """Run the kernels on arguments of `op.rope_attention` that have been checked.

    Args:
        out: [N, L, D] contiguous, to be written; None allocates it.
        params: launch parameters; None for the tuned ones.
    """
    n, length, dim = q.shape
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    if params is None:
        params = launch_for(q.device, n, length, dim, q.dtype)
    tiles = triton.cdiv(length, params.block_n)
    splits = min(params.splits, tiles)

    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    if splits > 1:
        parts = torch.empty((splits, n, length, dim), dtype=torch.float32, device=q.device)
        lse = torch.empty((splits, n, length), dtype=torch.float32, device=q.device)
    else:
        # Unused, but the kernel needs some pointer.
        parts, lse = out, cos
    _attend_kernel[(triton.cdiv(length, params.block_m), splits, n)](
        q, k, v, parts, lse, scale * _LOG2_E, length,
        q.stride(0), k.stride(0), v.stride(0), v.stride(1),
        D=dim, BM=params.block_m, BN=params.block_n,
        SPLIT=splits > 1, EVEN=length % params.block_n == 0, PRECISION=dot_precision(q.dtype),
        num_warps=params.num_warps, num_stages=params.num_stages,
    )  # fmt: skip
    if splits > 1:
        combine(parts, lse, out)
    return out


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    found = []
    for dtype in TRITON_NAMES:
        for dim in DIMS:
            found += [
                rotate_variant("rope_attention", dim, dtype, capability),
                combine_variant("rope_attention", dim, dtype, capability),
            ]
            for split, even in itertools.product((True, False), repeat=2):
                found.append(_attend_variant(dim, split, even, dtype, capability))
    return found


def _attend_variant(
    dim: int, split: bool, even: bool, dtype: torch.dtype, capability: int
) -> Variant:
    pointer, config = f"*{TRITON_NAMES[dtype]}", tile(dim, dtype, capability)
    tensors = dict.fromkeys(("q", "k", "v"), pointer)
    tensors |= {"out": "*fp32" if split else pointer, "lse": "*fp32"}
    strides = dict.fromkeys(("s_qn", "s_kn", "s_vn", "s_vl"), "i32")
    mode = f"{' split' * split}{'' if even else ' odd'}"
    return Variant(
        op="rope_attention",
        kernel=_attend_kernel,
        label=f"{pointer[1:]} D{dim} {config.block_m}x{config.block_n}{mode}",
        capability=capability,
        signature=tensors | {"scale": "fp32", "L": "i32"} | strides,
        constants={
            "D": dim,
            "BM": config.block_m,
            "BN": config.block_n,
            "SPLIT": split,
            "EVEN": even,
            "PRECISION": dot_precision(dtype),
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        has_dot=True,
        aligned=(*tensors, *strides),
    )
