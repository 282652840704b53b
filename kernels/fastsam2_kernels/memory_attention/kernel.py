"""Attention over tiles of a paged memory, split over the memory (split-KV), in Triton.

`rotated` applies RoPE to the queries, `memory_attention_kernel` attends to one part of an object's
memory, and `combine` joins the parts. `gluon_kernel.py` has another kernel for the middle step.
"""

import math
from collections.abc import Callable

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
from fastsam2_kernels.rotary_kernel import rotate_variant, rotated
from fastsam2_kernels.split_kv import combine, combine_variant

__all__ = ["Attend", "grid", "launch", "variants"]

_LOG2_E = math.log2(math.e)

#: Launches a kernel that attends to the parts of a memory: rotated queries, memory, scale with
#: log2(e), launch parameters, and the parts and their logsumexp to be written.
Attend = Callable[[Tensor, PagedMemory, float, Launch, Tensor, Tensor], None]


@triton.jit
def load_tile(p_x, m_x, MASKED: tl.constexpr):
    return tl.load(p_x, mask=m_x, other=0.0) if MASKED else tl.load(p_x)


@triton.jit
def attend_tile(
    b_q,  # [BM, BD], rotated
    b_q2,  # [BM, BD], the rest if BD is less than D
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
    BD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    o_n = start + tl.arange(0, BLOCK_N)
    m_n = o_n < rows
    # [BD, BN]
    p_k = p_keys + o_n[None, :] * D + tl.arange(0, BD)[:, None]
    # [BN, M]
    p_v = p_latents + o_n[:, None] * M + tl.arange(0, M)[None, :]
    b_k = load_tile(p_k, m_n[None, :], MASKED)
    b_v = load_tile(p_v, m_n[:, None], MASKED).to(b_k.dtype)
    # [BM, BN]
    b_s = tl.dot(b_q, b_k, input_precision=PRECISION)
    if BD < D:
        b_k = load_tile(p_k + BD, m_n[None, :], MASKED)
        b_s = tl.dot(b_q2, b_k, b_s, input_precision=PRECISION)
    if MASKED:
        b_s = tl.where(m_n[None, :], b_s, float("-inf"))
    # A tile has at least one row, so the maximum is finite.
    b_new = tl.maximum(b_max, tl.max(b_s, 1) * scale)
    b_alpha = tl.exp2(b_max - b_new)
    b_p = tl.exp2(b_s * scale - b_new[:, None])
    b_sum = b_sum * b_alpha + tl.sum(b_p, 1)
    # [BM, M]
    b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_alpha[:, None], input_precision=PRECISION)
    return b_new, b_sum, b_acc


# What changes between frames must not recompile: the numbers of objects, memories and pointers, and
# the alignment of the tables, which are views of one upload.
@triton.jit(
    do_not_specialize=["N", "K", "P"],
    do_not_specialize_on_alignment=["slots", "reads", "num_reads", "num_pointers"],
)
def memory_attention_kernel(
    q,  # [N, Lq, D], rotated; objects stride_q apart
    keys,  # [R, HW, D]
    latents,  # [S, HW, M], any floating dtype
    slots,  # [N, K] int32
    reads,  # [N, K] int32
    num_reads,  # [N] int32
    pointer_keys,  # [N, P, D]
    pointer_latents,  # [N, P, M]
    num_pointers,  # [N] int32
    parts,  # [splits, N, Lq, M] float32, each normalised, written
    logsumexp,  # [splits, N, Lq] float32, in base 2, written
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
    EVEN: tl.constexpr,  # BLOCK_N divides HW
    PRECISION: tl.constexpr,
):
    # The three TF32 products of float32 keep two parts of the queries in registers: half at a time.
    BD: tl.constexpr = D // 2 if PRECISION == "tf32x3" else D
    i_n = tl.program_id(1)
    i_s = tl.program_id(2)
    o_q = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_q = o_q[:, None] < Lq
    # [BM, BD]
    p_q = q + tl.cast(i_n, tl.int64) * stride_q + o_q[:, None] * D + tl.arange(0, BD)[None, :]
    b_q = tl.load(p_q, mask=m_q, other=0.0)
    b_q2 = tl.load(p_q + D - BD, mask=m_q, other=0.0)
    b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    b_acc = tl.zeros([BLOCK_M, M], tl.float32)

    # Order of an object's tiles: its first memory, its second, ..., then its pointers.
    n_read = tl.minimum(tl.load(num_reads + i_n), K)
    n_pointers = tl.minimum(tl.load(num_pointers + i_n), P)
    per_read = tl.cdiv(HW, BLOCK_N)
    n_paged = n_read * per_read
    n_tiles = n_paged + tl.cdiv(n_pointers, BLOCK_N)
    first = n_tiles * i_s // tl.num_programs(2)
    last = n_tiles * (i_s + 1) // tl.num_programs(2)

    # One flat loop, with the page of a tile looked up one tile ahead: copies of the next tile can
    # only be issued before this one is used if their addresses are known by then.
    i_read = first // per_read
    start = (first - i_read * per_read) * BLOCK_N
    row = tl.load(reads + i_n * K + i_read, mask=i_read < n_read, other=0)
    slot = tl.load(slots + i_n * K + i_read, mask=i_read < n_read, other=0)
    for _ in range(first, tl.minimum(last, n_paged)):
        p_k = keys + row.to(tl.int64) * HW * D
        p_v = latents + slot.to(tl.int64) * HW * M
        b_max, b_sum, b_acc = attend_tile(
            b_q, b_q2, p_k, p_v, start, HW, scale, b_max, b_sum, b_acc,
            D, M, BD, BLOCK_N, not EVEN, PRECISION,
        )  # fmt: skip
        start += BLOCK_N
        ends = start >= HW
        start = tl.where(ends, 0, start)
        i_read += ends.to(tl.int32)
        row = tl.load(reads + i_n * K + i_read, mask=i_read < n_read, other=0)
        slot = tl.load(slots + i_n * K + i_read, mask=i_read < n_read, other=0)

    p_k = pointer_keys + tl.cast(i_n, tl.int64) * P * D
    p_v = pointer_latents + tl.cast(i_n, tl.int64) * P * M
    for tile in range(tl.maximum(first - n_paged, 0), last - n_paged):
        b_max, b_sum, b_acc = attend_tile(
            b_q, b_q2, p_k, p_v, tile * BLOCK_N, n_pointers, scale, b_max, b_sum, b_acc,
            D, M, BD, BLOCK_N, True, PRECISION,
        )  # fmt: skip

    # Without memory: zeros, and the logarithm of zero.
    b_out = b_acc / tl.where(b_sum > 0, b_sum, 1.0)[:, None]
    i_row = (tl.cast(i_s, tl.int64) * N + i_n) * Lq
    tl.store(logsumexp + i_row + o_q, b_max + tl.log2(b_sum), mask=o_q < Lq)
    # [BM, M]
    p_out = parts + (i_row + o_q[:, None]) * M + tl.arange(0, M)[None, :]
    tl.store(p_out, b_out, mask=m_q)


def grid(q: Tensor, parts: Tensor, params: Launch) -> tuple[int, int, int]:
    """Return the numbers of query tiles, objects and splits."""
    return triton.cdiv(q.shape[1], params.block_m), len(q), len(parts)


def _attend(
    q: Tensor,
    memory: PagedMemory,
    scale: float,
    params: Launch,
    parts: Tensor,
    logsumexp: Tensor,
) -> None:
    objects, queries, dim = q.shape
    tokens, width = memory.latents.shape[1:]
    memory_attention_kernel[grid(q, parts, params)](
        q,
        *memory.flat(),
        parts,
        logsumexp,
        scale,
        q.stride(0),
        objects,
        memory.reads.shape[1],
        memory.pointer_keys.shape[1],
        queries,
        tokens,
        D=dim,
        M=width,
        BLOCK_M=params.block_m,
        BLOCK_N=params.block_n,
        EVEN=tokens % params.block_n == 0,
        PRECISION=dot_precision(q.dtype),
        num_warps=params.num_warps,
        num_stages=params.num_stages,
    )


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
    attend: Attend = _attend,
) -> Tensor:
    """Run the kernels on checked arguments of `op.memory_attention`.

    Args:
        out: [N, Lq, M] contiguous, to be written; None allocates it.
        params: launch parameters; None for the tuned ones.
        splits: number of splits of each object's memory; None to choose it.
        attend: launches the kernel between RoPE and the combine step.
    """
    objects, queries, dim = q.shape
    tokens, width = memory.latents.shape[1:]
    if out is None:
        out = q.new_empty(objects, queries, width)
    if out.numel() == 0:
        return out
    if params is None:
        params = tuned(objects, queries, tokens, dim, q.dtype, q.device)
    if splits is None:
        tiles = memory.reads.shape[1] * triton.cdiv(tokens, params.block_n)
        tiles += triton.cdiv(memory.pointer_keys.shape[1], params.block_n)
        programs = objects * triton.cdiv(queries, params.block_m)
        splits = choose_splits(programs, tiles, processors(q.device))
    parts = q.new_empty(splits, objects, queries, width, dtype=torch.float32)
    logsumexp = q.new_empty(splits, objects, queries, dtype=torch.float32)
    attend(rotated(q, cos, sin), memory, scale * _LOG2_E, params, parts, logsumexp)
    combine(parts, logsumexp, out)
    return out


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    found = []
    for dtype in TRITON_NAMES:
        for dim, queries in ((256, 4096), (256, 256), (128, 4096), (128, 256)):
            found.append(_attention_variant(queries, 4096, dim, dtype, capability))
        found.append(_attention_variant(4096, 4095, 256, dtype, capability))
        found += [rotate_variant("memory_attention", d, dtype, capability) for d in (256, 128)]
        found.append(combine_variant("memory_attention", 64, dtype, capability))
    # Memories are stored in bfloat16 even if the model computes in float32.
    for tokens in (4096, 4095):
        found.append(_attention_variant(4096, tokens, 256, torch.float32, capability, "bf16"))
    return found


def _attention_variant(
    queries: int,
    tokens: int,
    dim: int,
    dtype: torch.dtype,
    capability: int,
    latents: str | None = None,
) -> Variant:
    params = choose(queries, dim, dtype, capability)
    even = tokens % params.block_n == 0
    name = TRITON_NAMES[dtype]
    tensors = dict.fromkeys(("q", "keys", "pointer_keys", "pointer_latents"), f"*{name}")
    tensors |= {"latents": f"*{latents or name}", "parts": "*fp32", "logsumexp": "*fp32"}
    tables = dict.fromkeys(("slots", "reads", "num_reads", "num_pointers"), "*i32")
    sizes = dict.fromkeys(("stride_q", "N", "K", "P", "Lq", "HW"), "i32")
    label = f"{name} D{dim} {params.block_m}x{params.block_n} {'even' if even else 'odd'}"
    return Variant(
        op="memory_attention",
        kernel=memory_attention_kernel,
        label=label if latents is None else f"{label} {latents} latents",
        capability=capability,
        signature=tensors | tables | {"scale": "fp32"} | sizes,
        constants={
            "D": dim,
            "M": 64,
            "BLOCK_M": params.block_m,
            "BLOCK_N": params.block_n,
            "EVEN": even,
            "PRECISION": dot_precision(dtype),
        },
        num_warps=params.num_warps,
        num_stages=params.num_stages,
        has_dot=True,
        aligned=(*tensors, "stride_q", "Lq", *(["HW"] if even else [])),
    )
