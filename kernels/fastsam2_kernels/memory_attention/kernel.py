"""Triton kernel: attention over tiles of a paged memory, split over the memory (split-KV)."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES, dot_precision, processors
from fastsam2_kernels.memory_attention.paged_memory import PagedMemory
from fastsam2_kernels.memory_attention.tuning import (
    Launch,
    choose,
    choose_splits,
    tuned,
)
from fastsam2_kernels.split_kv import combine, combine_variant

__all__ = ["launch", "variants"]

_LOG2_E = math.log2(math.e)


@triton.jit
def attend_tile(
    b_q1,  # [BM, D/2], rotated
    b_q2,  # [BM, D/2], rotated
    p_keys,  # [rows, D]
    p_latents,  # [rows, M], any floating dtype
    start,  # first row of the tile
    rows,
    scale,  # with log2(e)
    b_max,  # [BM] float32, largest logit in base 2 so far
    b_sum,  # [BM] float32
    b_acc,  # [BM, M] float32
    D: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    H: tl.constexpr = D // 2
    o_n = start + tl.arange(0, BLOCK_N)
    o_h = tl.arange(0, H)
    # [D/2, BN]
    p_k = p_keys + o_n[None, :] * D + o_h[:, None]
    # [BN, M]
    p_v = p_latents + o_n[:, None] * M + tl.arange(0, M)[None, :]
    if MASKED:
        b_k1 = tl.load(p_k, mask=o_n[None, :] < rows, other=0.0)
        b_k2 = tl.load(p_k + H, mask=o_n[None, :] < rows, other=0.0)
        b_v = tl.load(p_v, mask=o_n[:, None] < rows, other=0.0)
    else:
        b_k1 = tl.load(p_k)
        b_k2 = tl.load(p_k + H)
        b_v = tl.load(p_v)
    b_v = b_v.to(b_k1.dtype)
    # [BM, BN]
    b_s = tl.dot(b_q1, b_k1, input_precision=PRECISION)
    b_s = tl.dot(b_q2, b_k2, b_s, input_precision=PRECISION)
    if MASKED:
        b_s = tl.where(o_n[None, :] < rows, b_s, float("-inf"))
    # A tile has at least one row, so the maximum is finite.
    b_new = tl.maximum(b_max, tl.max(b_s, 1) * scale)
    b_alpha = tl.exp2(b_max - b_new)
    b_p = tl.exp2(b_s * scale - b_new[:, None])
    b_sum = b_sum * b_alpha + tl.sum(b_p, 1)
    # [BM, M]
    b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_alpha[:, None], input_precision=PRECISION)
    return b_new, b_sum, b_acc


# The numbers of objects, memories and pointers change between frames and must not recompile.
@triton.jit(do_not_specialize=["N", "K", "P"])
def memory_attention_kernel(
    q,  # [N, Lq, D], objects stride_q apart
    keys,  # [R, HW, D]
    latents,  # [S, HW, M], any floating dtype
    slots,  # [N, K] int32
    reads,  # [N, K] int32
    num_reads,  # [N] int32
    pointer_keys,  # [N, P, D]
    pointer_latents,  # [N, P, M]
    num_pointers,  # [N] int32
    cos,  # [Lq, D/2] float32
    sin,  # [Lq, D/2] float32
    out,  # [N, Lq, M]; [splits, N, Lq, M] float32 if SPLIT; written
    logsumexp,  # [splits, N, Lq] float32, in base 2; written if SPLIT
    scale,  # with log2(e)
    stride_q,
    N,
    K,
    P,
    Lq,
    HW,
    D: tl.constexpr,
    M: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN: tl.constexpr,  # BLOCK_N divides HW
    PRECISION: tl.constexpr,
):
    i_n = tl.program_id(1)
    i_s = tl.program_id(2)
    H: tl.constexpr = D // 2
    o_q = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_h = tl.arange(0, H)
    o_m = tl.arange(0, M)
    m_q = o_q[:, None] < Lq

    # [BM, D/2]
    p_q = q + tl.cast(i_n, tl.int64) * stride_q + o_q[:, None] * D + o_h[None, :]
    b_1 = tl.load(p_q, mask=m_q, other=0.0).to(tl.float32)
    b_2 = tl.load(p_q + H, mask=m_q, other=0.0).to(tl.float32)
    o_qh = o_q[:, None] * H + o_h[None, :]
    b_cos = tl.load(cos + o_qh, mask=m_q, other=0.0)
    b_sin = tl.load(sin + o_qh, mask=m_q, other=0.0)
    b_q1 = (b_1 * b_cos - b_2 * b_sin).to(q.dtype.element_ty)
    b_q2 = (b_2 * b_cos + b_1 * b_sin).to(q.dtype.element_ty)

    b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    b_acc = tl.zeros([BLOCK_M, M], tl.float32)

    # Order of an object's tiles: its first memory, its second, ..., then its pointers.
    n_read = tl.minimum(tl.load(num_reads + i_n), K)
    n_pointers = tl.minimum(tl.load(num_pointers + i_n), P)
    per_read = tl.cdiv(HW, BLOCK_N)
    n_paged = n_read * per_read
    n_tiles = n_paged + tl.cdiv(n_pointers, BLOCK_N)
    first = 0
    last = n_tiles
    if SPLIT:
        first = n_tiles * i_s // tl.num_programs(2)
        last = n_tiles * (i_s + 1) // tl.num_programs(2)

    for i_read in range(first // per_read, tl.cdiv(tl.minimum(last, n_paged), per_read)):
        row = tl.load(reads + i_n * K + i_read).to(tl.int64)
        slot = tl.load(slots + i_n * K + i_read).to(tl.int64)
        p_k = keys + row * HW * D
        p_v = latents + slot * HW * M
        begin = i_read * per_read
        for tile in range(tl.maximum(first - begin, 0), tl.minimum(last - begin, per_read)):
            b_max, b_sum, b_acc = attend_tile(
                b_q1, b_q2, p_k, p_v, tile * BLOCK_N, HW, scale, b_max, b_sum, b_acc,
                D, M, BLOCK_N, not EVEN, PRECISION,
            )  # fmt: skip

    p_k = pointer_keys + tl.cast(i_n, tl.int64) * P * D
    p_v = pointer_latents + tl.cast(i_n, tl.int64) * P * M
    for tile in range(tl.maximum(first - n_paged, 0), last - n_paged):
        b_max, b_sum, b_acc = attend_tile(
            b_q1, b_q2, p_k, p_v, tile * BLOCK_N, n_pointers, scale, b_max, b_sum, b_acc,
            D, M, BLOCK_N, True, PRECISION,
        )  # fmt: skip

    # Without memory: zeros, and the logarithm of zero.
    b_out = b_acc / tl.where(b_sum > 0, b_sum, 1.0)[:, None]
    i_row = tl.cast(i_n, tl.int64) * Lq
    if SPLIT:
        i_row += tl.cast(i_s, tl.int64) * N * Lq
        tl.store(logsumexp + i_row + o_q, b_max + tl.log2(b_sum), mask=o_q < Lq)
    # [BM, M]
    p_out = out + (i_row + o_q[:, None]) * M + o_m[None, :]
    tl.store(p_out, b_out.to(out.dtype.element_ty), mask=m_q)


def launch(
    q: Tensor,
    memory: PagedMemory,
    cos: Tensor,
    sin: Tensor,
    scale: float,
    *,
    out: Tensor | None = None,
    params: Launch | None = None,
    splits: int | None = None,
) -> Tensor:
    """Run the kernel and the combine step on checked arguments of `op.memory_attention`.

    Args:
        out: [N, Lq, M] contiguous, to be written; None allocates it.
        params: launch parameters; None for the tuned ones.
        splits: number of splits of each object's memory; None to choose it.
    """
    objects, queries, dim = q.shape
    tokens, width = memory.latents.shape[1:]
    most_reads, most_pointers = memory.reads.shape[1], memory.pointer_keys.shape[1]
    if out is None:
        out = q.new_empty(objects, queries, width)
    if out.numel() == 0:
        return out
    if params is None:
        params = tuned(objects, queries, tokens, dim, q.dtype, q.device)
    q_tiles = triton.cdiv(queries, params.block_m)
    if splits is None:
        tiles = most_reads * triton.cdiv(tokens, params.block_n)
        tiles += triton.cdiv(most_pointers, params.block_n)
        splits = choose_splits(objects * q_tiles, tiles, processors(q.device))
    parts, logsumexp = out, out
    if splits > 1:
        parts = q.new_empty(splits, objects, queries, width, dtype=torch.float32)
        logsumexp = q.new_empty(splits, objects, queries, dtype=torch.float32)
    memory_attention_kernel[(q_tiles, objects, splits)](
        q,
        *memory.flat(),
        cos,
        sin,
        parts,
        logsumexp,
        scale * _LOG2_E,
        q.stride(0),
        objects,
        most_reads,
        most_pointers,
        queries,
        tokens,
        D=dim,
        M=width,
        BLOCK_M=params.block_m,
        BLOCK_N=params.block_n,
        SPLIT=splits > 1,
        EVEN=tokens % params.block_n == 0,
        PRECISION=dot_precision(q.dtype),
        num_warps=params.num_warps,
        num_stages=params.num_stages,
    )
    if splits > 1:
        combine(parts, logsumexp, out)
    return out


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    found = []
    for dtype in TRITON_NAMES:
        for dim, queries in ((256, 4096), (256, 256), (128, 4096), (128, 256)):
            found.append(_attention_variant(queries, 4096, dim, True, dtype, capability))
        found.append(_attention_variant(4096, 4096, 256, False, dtype, capability))
        found.append(_attention_variant(4096, 4095, 256, True, dtype, capability))
        found.append(combine_variant("memory_attention", 64, dtype, capability))
    # Memories are stored in bfloat16 even if the model computes in float32.
    for tokens in (4096, 4095):
        found.append(_attention_variant(4096, tokens, 256, True, torch.float32, capability, "bf16"))
    return found


def _attention_variant(
    queries: int,
    tokens: int,
    dim: int,
    split: bool,
    dtype: torch.dtype,
    capability: int,
    latents: str | None = None,
) -> Variant:
    params = choose(queries, tokens, dim, dtype, capability)
    even = tokens % params.block_n == 0
    name = TRITON_NAMES[dtype]
    computed = ("q", "keys", "pointer_keys", "pointer_latents")
    signature = dict.fromkeys(computed, f"*{name}") | {"latents": f"*{latents or name}"}
    signature |= dict.fromkeys(("slots", "reads", "num_reads", "num_pointers"), "*i32")
    signature |= {"cos": "*fp32", "sin": "*fp32"}
    signature |= dict.fromkeys(("out", "logsumexp"), "*fp32" if split else f"*{name}")
    signature |= {"scale": "fp32"}
    signature |= dict.fromkeys(("stride_q", "N", "K", "P", "Lq", "HW"), "i32")
    aligned = [k for k, v in signature.items() if v[0] == "*"] + ["stride_q", "Lq"]
    mode = f"{'split' if split else 'whole'} {'even' if even else 'odd'}"
    if latents is not None:
        mode += f" {latents} latents"
    return Variant(
        op="memory_attention",
        kernel=memory_attention_kernel,
        label=f"{name} D{dim} {params.block_m}x{params.block_n} {mode}",
        capability=capability,
        signature=signature,
        constants={
            "D": dim,
            "M": 64,
            "BLOCK_M": params.block_m,
            "BLOCK_N": params.block_n,
            "SPLIT": split,
            "EVEN": even,
            "PRECISION": dot_precision(dtype),
        },
        num_warps=params.num_warps,
        num_stages=params.num_stages,
        has_dot=True,
        aligned=(*aligned, "HW") if even else tuple(aligned),
    )
