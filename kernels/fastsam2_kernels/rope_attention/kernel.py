"""Flash attention with RoPE on queries and keys, split over the keys, in Triton.

`_rotate_keys_kernel` rotates the keys once and stores them: every query tile reads
every key, so rotating on load would repeat the work L / BM times and pass each tile through
registers, where it is otherwise copied straight into shared memory. `_attend_kernel` rotates its
queries on load and loops over one split of the keys. `combine` joins the splits.
"""

import torch
import triton
import triton.language as tl

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES, dot_precision
from fastsam2_kernels.rope_attention.tuning import DIMS, Launch, launch_for, tile
from fastsam2_kernels.split_kv import combine, combine_variant

__all__ = ["launch", "variants"]

_LOG2_E = 1.4426950408889634

#: Rows and warps of a program of the kernel that rotates keys.
_ROWS, _ROW_WARPS = 16, 4


@triton.jit
def _rotate(low, high, cos, sin):
    return low * cos - high * sin, high * cos + low * sin


# L affects masks only; specialising on it would compile more versions.
@triton.jit(do_not_specialize=["L"])
def _rotate_keys_kernel(
    k,  # [N, L, D], of strides s_kn, s_kl, 1
    cos,  # [L, D // 2] float32
    sin,  # [L, D // 2] float32
    out,  # [N, L, D]
    L,
    s_kn,
    s_kl,
    D: tl.constexpr,
    BL: tl.constexpr,
):
    i_l, i_n = tl.program_id(0) * BL, tl.program_id(1).to(tl.int64)
    o_l = tl.arange(0, BL)[:, None]
    o_h = tl.arange(0, D // 2)[None, :]
    m_l = i_l + o_l < L

    # [BL, D // 2]
    p_k = k + i_n * s_kn + i_l.to(tl.int64) * s_kl + o_l * s_kl + o_h
    b_low = tl.load(p_k, mask=m_l, other=0.0).to(tl.float32)
    b_high = tl.load(p_k + D // 2, mask=m_l, other=0.0).to(tl.float32)
    # [BL, D // 2]
    o_angle = (i_l + o_l) * (D // 2) + o_h
    b_cos = tl.load(cos + o_angle, mask=m_l, other=0.0)
    b_sin = tl.load(sin + o_angle, mask=m_l, other=0.0)
    b_low, b_high = _rotate(b_low, b_high, b_cos, b_sin)

    # [BL, D // 2]
    p_out = out + (i_n * L + i_l) * D + o_l * D + o_h
    tl.store(p_out, b_low.to(out.dtype.element_ty), mask=m_l)
    tl.store(p_out + D // 2, b_high.to(out.dtype.element_ty), mask=m_l)


@triton.jit(do_not_specialize=["L"])
def _attend_kernel(
    q,  # [N, L, D], of strides s_qn, s_ql, 1
    k,  # [N, L, D], rotated, contiguous
    v,  # [N, L, D], of strides s_vn, s_vl, 1
    cos,  # [L, D // 2] float32
    sin,  # [L, D // 2] float32
    out,  # [N, L, D]; or, if SPLIT, partial results [S, N, L, D] float32, each normalised
    lse,  # [S, N, L] float32: log2 of the sum of exponentials of a split; written if SPLIT
    scale,  # times log2(e), positive
    L,
    s_qn,
    s_ql,
    s_vn,
    s_vl,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN: tl.constexpr,  # BN divides L
    PRECISION: tl.constexpr,
):
    i_m, i_s, i_n = tl.program_id(0) * BM, tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m = tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_h = tl.arange(0, D // 2)
    o_d = tl.arange(0, D)
    m_m = o_m < L - i_m

    # [BM, D // 2]
    p_q = q + i_n * s_qn + i_m.to(tl.int64) * s_ql + o_m[:, None] * s_ql + o_h[None, :]
    b_low = tl.load(p_q, mask=m_m[:, None], other=0.0).to(tl.float32)
    b_high = tl.load(p_q + D // 2, mask=m_m[:, None], other=0.0).to(tl.float32)
    # [BM, D // 2]
    o_angle = (i_m + o_m)[:, None] * (D // 2) + o_h[None, :]
    b_cos = tl.load(cos + o_angle, mask=m_m[:, None], other=0.0)
    b_sin = tl.load(sin + o_angle, mask=m_m[:, None], other=0.0)
    b_low, b_high = _rotate(b_low, b_high, b_cos, b_sin)
    # The halves stay separate: two products over D / 2 channels need no shuffle, fewer registers.
    b_low, b_high = b_low.to(k.dtype.element_ty), b_high.to(k.dtype.element_ty)

    b_max = tl.full([BM], float("-inf"), tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, D], tl.float32)
    k += i_n * L * D
    v += i_n * s_vn
    # There are at most as many splits as tiles, so none is empty, and each tile has a key.
    tiles, parts = tl.cdiv(L, BN), tl.num_programs(1)
    for i_t in range(i_s * tiles // parts, (i_s + 1) * tiles // parts):
        i_k = i_t * BN
        m_n = i_k + o_n < L
        # [D // 2, BN]
        p_k = k + (i_k + o_n)[None, :] * D + o_h[:, None]
        # [BN, D]
        p_v = v + (i_k + o_n)[:, None].to(tl.int64) * s_vl + o_d[None, :]
        if EVEN:
            b_k_low, b_k_high = tl.load(p_k), tl.load(p_k + D // 2)
            b_v = tl.load(p_v)
        else:
            b_k_low = tl.load(p_k, mask=m_n[None, :], other=0.0)
            b_k_high = tl.load(p_k + D // 2, mask=m_n[None, :], other=0.0)
            b_v = tl.load(p_v, mask=m_n[:, None], other=0.0)
        # [BM, BN]
        b_p = tl.dot(b_low, b_k_low, input_precision=PRECISION)
        b_p = tl.dot(b_high, b_k_high, b_p, input_precision=PRECISION)
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

    rotated = torch.empty_like(out)
    _rotate_keys_kernel[(triton.cdiv(length, _ROWS), n)](
        k, cos, sin, rotated, length, k.stride(0), k.stride(1),
        D=dim, BL=_ROWS, num_warps=_ROW_WARPS,
    )  # fmt: skip
    if splits > 1:
        parts = torch.empty((splits, n, length, dim), dtype=torch.float32, device=q.device)
        lse = torch.empty((splits, n, length), dtype=torch.float32, device=q.device)
    else:
        # Unused, but the kernel needs some pointer.
        parts, lse = out, cos
    _attend_kernel[(triton.cdiv(length, params.block_m), splits, n)](
        q, rotated, v, cos, sin, parts, lse, scale * _LOG2_E, length,
        q.stride(0), q.stride(1), v.stride(0), v.stride(1),
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
    for dtype, name in TRITON_NAMES.items():
        for dim in DIMS:
            found += _variants(capability, dtype, name, dim)
    return found


def _variants(capability: int, dtype: torch.dtype, name: str, dim: int) -> list[Variant]:
    pointer, config = f"*{name}", tile(dim, dtype, capability)
    tables = {"cos": "*fp32", "sin": "*fp32"}

    def variant(
        kernel: object,
        label: str,
        signature: dict[str, str],
        constants: dict[str, object],
        num_warps: int,
        num_stages: int = 3,
    ) -> Variant:
        aligned = [a for a, t in signature.items() if t.startswith("*") or a.startswith("s_")]
        return Variant(
            op="rope_attention",
            kernel=kernel,
            label=f"{name} {dim} {label}",
            capability=capability,
            signature=signature,
            constants={"D": dim, **constants},
            num_warps=num_warps,
            num_stages=num_stages,
            has_dot=kernel is _attend_kernel,
            aligned=tuple(aligned),
        )

    keys = {"k": pointer, **tables, "out": pointer, "L": "i32", "s_kn": "i32", "s_kl": "i32"}
    found = [
        variant(_rotate_keys_kernel, "keys", keys, {"BL": _ROWS}, _ROW_WARPS),
        combine_variant("rope_attention", dim, dtype, capability),
    ]
    for split in (True, False):
        for even in (True, False):
            attend = {
                "q": pointer, "k": pointer, "v": pointer, **tables,
                "out": "*fp32" if split else pointer, "lse": "*fp32", "scale": "fp32", "L": "i32",
                "s_qn": "i32", "s_ql": "i32", "s_vn": "i32", "s_vl": "i32",
            }  # fmt: skip
            constants: dict[str, object] = {
                "BM": config.block_m,
                "BN": config.block_n,
                "SPLIT": split,
                "EVEN": even,
                "PRECISION": dot_precision(dtype),
            }
            label = f"{config.block_m}x{config.block_n}{' split' * split}{'' if even else ' odd'}"
            found.append(
                variant(
                    _attend_kernel, label, attend, constants, config.num_warps, config.num_stages
                )
            )
    return found
