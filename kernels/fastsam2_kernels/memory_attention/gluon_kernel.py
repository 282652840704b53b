"""Attention to one part of an object's memory in Gluon, for Hopper GPUs (sm_90).

An alternative to `kernel.memory_attention_kernel`. In Gluon the schedule is explicit: the tensor
cores compute the logits of the next tile during the softmax of the current one, an overlap that
Triton's compiler does not generate from `kernel.py`.

The tensor memory accelerator (TMA) copies tiles of pages into two rings of buffers in shared
memory, one for keys and one for latents. Each buffer has an mbarrier, which completes a phase when
a tile has arrived. With rings of 3 buffers, one iteration does the following:

    wait for the keys of tile j + 1 and the latents of tile j
    start the product of the queries and the keys of tile j + 1
    start the copies of the keys of tile j + 3 into the buffer of those of tile j,
        and of the latents of tile j + 2 into the buffer of those of tile j - 1
    softmax of tile j
    start the product of the weights and the latents of tile j
    wait for both products

TMA fills rows past the end of a page with zeros. It cannot do so for pointer tokens, of which only
the first `num_pointers` are defined: the threads load them, after the pages and without overlap.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import HALF, TRITON_NAMES, family
from fastsam2_kernels.memory_attention import kernel
from fastsam2_kernels.memory_attention.paged_memory import PagedMemory
from fastsam2_kernels.memory_attention.tuning import Launch, choose

__all__ = ["launch", "variants"]


@gluon.jit
def matrix(ring, i):
    """Return buffer `i` of a ring [stages, 1, rows, width] as [rows, width]."""
    return ring.index(i).reshape([ring.shape[2], ring.shape[3]])


@gluon.jit
def next_tile(page, start, HW, BLOCK_N: gl.constexpr):
    """Return the page and the first token of the tile that follows."""
    start += BLOCK_N
    ends = start >= HW
    return page + ends.to(gl.int32), gl.where(ends, 0, start)


@gluon.jit
def copy_tile(source, table, page, start, ring, bars, i, wanted):
    """Start the copy of a tile into buffer `i`; `table` has the row of each page of the object."""
    row = gl.load(table + page, mask=wanted, other=0)
    tma.async_copy_global_to_shared(
        source, [row, start, 0], bars.index(i), ring.index(i), pred=wanted
    )


@gluon.jit
def copy_step(
    keys, latents, reads, slots, s_k, s_v, k_bars, v_bars, j, count,
    k_page, k_start, v_page, v_start, HW, STAGES: gl.constexpr,
):  # fmt: skip
    """Start the copies of the keys of tile `j`, at `k_page` and `k_start`, and of the latents of
    tile `j - 1`, at `v_page` and `v_start`, if there are such tiles. Return the places for `j + 1`.
    """
    has_k = j < count
    has_v = (j > 0) & (j <= count)
    i_k = j % STAGES
    i_v = (j + STAGES - 1) % STAGES
    mbarrier.expect(k_bars.index(i_k), keys.block_type.nbytes, pred=has_k)
    mbarrier.expect(v_bars.index(i_v), latents.block_type.nbytes, pred=has_v)
    copy_tile(keys, reads, k_page, k_start, s_k, k_bars, i_k, has_k)
    copy_tile(latents, slots, v_page, v_start, s_v, v_bars, i_v, has_v)
    page, start = next_tile(k_page, k_start, HW, s_k.shape[2])
    return page, start, k_page, k_start


@gluon.jit
def wait_for(bars, j, STAGES: gl.constexpr):
    """Wait until tile `j` has arrived in its ring."""
    mbarrier.wait(bars.index(j % STAGES), (j // STAGES) & 1)


@gluon.jit
def logits(s_q, b_k, layout: gl.constexpr, is_async: gl.constexpr):
    """Return the product of queries [BM, D] and keys [BN, D], both in shared memory."""
    BM: gl.constexpr = s_q.shape[0]
    BN: gl.constexpr = b_k.shape[0]
    zero = gl.zeros([BM, BN], gl.float32, layout)
    return warpgroup_mma(s_q, b_k.permute((1, 0)), zero, use_acc=False, is_async=is_async)


@gluon.jit
def softmax_step(
    b_s,  # [BM, BN] float32
    rows,  # of the tile, at least 1
    scale,  # with log2(e)
    b_max,  # [BM] float32, largest logit in base 2 so far
    b_sum,  # [BM] float32
    b_acc,  # [BM, M] float32
    dtype: gl.constexpr,
    MASKED: gl.constexpr,
):
    """Return the weights of a tile as an operand, the new maximum and sum, and `b_acc` rescaled to
    the new maximum."""
    o_layout: gl.constexpr = b_acc.type.layout
    if MASKED:
        o_n = gl.arange(0, b_s.shape[1], gl.SliceLayout(0, b_s.type.layout))
        b_s = gl.where(o_n[None, :] < rows, b_s, float("-inf"))
    b_new = gl.maximum(b_max, gl.max(b_s, 1) * scale)
    b_alpha = gl.exp2(b_max - b_new)
    b_p = gl.exp2(b_s * scale - b_new[:, None])
    b_sum = b_sum * b_alpha + gl.sum(b_p, 1)
    b_acc = b_acc * gl.convert_layout(b_alpha, gl.SliceLayout(1, o_layout))[:, None]
    b_p = gl.convert_layout(b_p.to(dtype), gl.DotOperandLayout(0, o_layout, 2))
    return b_p, b_new, b_sum, b_acc


# As in `kernel.py`, what changes between frames must not recompile.
@gluon.jit(
    do_not_specialize=["N", "K", "P"],
    do_not_specialize_on_alignment=["slots", "reads", "num_reads", "num_pointers"],
)
def memory_attention_gluon_kernel(
    q,  # [N, Lq, D], rotated; objects stride_q apart
    keys,  # descriptor of [R, HW, D], tile [1, BN, D]
    latents,  # descriptor of [S, HW, M], tile [1, BN, M]
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
    D: gl.constexpr,
    M: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    EVEN: gl.constexpr,  # BLOCK_N divides HW
):
    W: gl.constexpr = gl.num_warps()
    gl.static_assert(BLOCK_M == 16 * W, "a warp computes 16 rows")
    dtype: gl.constexpr = keys.dtype
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [W, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [W, 1], [16, M, 16])
    # Each thread loads 16 bytes of a row.
    d_layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [W, 1], [1, 0])
    m_layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // M, M // 8], [W, 1], [1, 0])
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, D], dtype)
    i_n = gl.program_id(1)
    i_s = gl.program_id(2)

    s_k = gl.allocate_shared_memory(dtype, [STAGES, 1, BLOCK_N, D], keys.layout)
    s_v = gl.allocate_shared_memory(dtype, [STAGES, 1, BLOCK_N, M], latents.layout)
    k_bars = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_bars = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_bars.index(stage), count=1)
        mbarrier.init(v_bars.index(stage), count=1)
    fence_async_shared()

    # Order of an object's tiles: its first memory, its second, ..., then its pointers.
    n_pointers = gl.minimum(gl.load(num_pointers + i_n), P)
    per_read = gl.cdiv(HW, BLOCK_N)
    n_paged = gl.minimum(gl.load(num_reads + i_n), K) * per_read
    n_tiles = n_paged + gl.cdiv(n_pointers, BLOCK_N)
    first = n_tiles * i_s // gl.num_programs(2)
    last = n_tiles * (i_s + 1) // gl.num_programs(2)
    count = gl.minimum(last, n_paged) - first
    reads += i_n * K
    slots += i_n * K
    k_page = first // per_read
    start = (first - k_page * per_read) * BLOCK_N
    k_start = start
    v_page = k_page
    v_start = start
    for stage in gl.static_range(STAGES):
        k_page, k_start, v_page, v_start = copy_step(
            keys, latents, reads, slots, s_k, s_v, k_bars, v_bars, stage, count,
            k_page, k_start, v_page, v_start, HW, STAGES,
        )  # fmt: skip

    # [BM, D], in shared memory, where the tensor cores read it for every tile
    o_q = gl.program_id(0) * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(1, d_layout))
    o_d = gl.arange(0, D, gl.SliceLayout(0, d_layout))
    p_q = q + i_n.to(gl.int64) * stride_q + o_q[:, None] * D + o_d[None, :]
    b_q = gl.load(p_q, mask=o_q[:, None] < Lq, other=0.0)
    s_q = gl.allocate_shared_memory(dtype, [BLOCK_M, D], q_layout, b_q)
    fence_async_shared()

    b_max = gl.full([BLOCK_M], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
    b_sum = gl.zeros([BLOCK_M], gl.float32, gl.SliceLayout(1, s_layout))
    b_acc = gl.zeros([BLOCK_M, M], gl.float32, o_layout)
    if count > 0:
        wait_for(k_bars, 0, STAGES)
        b_s = logits(s_q, matrix(s_k, 0), s_layout, False)
        for j in range(count - 1):
            wait_for(k_bars, j + 1, STAGES)
            wait_for(v_bars, j, STAGES)
            b_next = logits(s_q, matrix(s_k, (j + 1) % STAGES), s_layout, True)
            k_page, k_start, v_page, v_start = copy_step(
                keys, latents, reads, slots, s_k, s_v, k_bars, v_bars, j + STAGES, count,
                k_page, k_start, v_page, v_start, HW, STAGES,
            )  # fmt: skip
            b_p, b_max, b_sum, b_acc = softmax_step(
                b_s, HW - start, scale, b_max, b_sum, b_acc, dtype, not EVEN
            )
            b_acc = warpgroup_mma(b_p, matrix(s_v, j % STAGES), b_acc, is_async=True)
            b_s, b_acc = warpgroup_mma_wait(0, deps=[b_next, b_acc])
            _, start = next_tile(0, start, HW, BLOCK_N)
        wait_for(v_bars, count - 1, STAGES)
        b_p, b_max, b_sum, b_acc = softmax_step(
            b_s, HW - start, scale, b_max, b_sum, b_acc, dtype, not EVEN
        )
        b_acc = warpgroup_mma(b_p, matrix(s_v, (count - 1) % STAGES), b_acc)
    for stage in gl.static_range(STAGES):
        mbarrier.invalidate(k_bars.index(stage))
        mbarrier.invalidate(v_bars.index(stage))

    o_k = gl.arange(0, BLOCK_N, gl.SliceLayout(1, d_layout))
    o_l = gl.arange(0, BLOCK_N, gl.SliceLayout(1, m_layout))
    o_m = gl.arange(0, M, gl.SliceLayout(0, m_layout))
    pointer_keys += i_n.to(gl.int64) * P * D
    pointer_latents += i_n.to(gl.int64) * P * M
    for tile in range(gl.maximum(first - n_paged, 0), last - n_paged):
        start = tile * BLOCK_N
        rows = n_pointers - start
        # [BN, D], [BN, M]
        p_k = pointer_keys + (start + o_k[:, None]) * D + o_d[None, :]
        p_v = pointer_latents + (start + o_l[:, None]) * M + o_m[None, :]
        matrix(s_k, 0).store(gl.load(p_k, mask=o_k[:, None] < rows, other=0.0))
        matrix(s_v, 0).store(gl.load(p_v, mask=o_l[:, None] < rows, other=0.0))
        fence_async_shared()
        b_s = logits(s_q, matrix(s_k, 0), s_layout, False)
        b_p, b_max, b_sum, b_acc = softmax_step(b_s, rows, scale, b_max, b_sum, b_acc, dtype, True)
        b_acc = warpgroup_mma(b_p, matrix(s_v, 0), b_acc)

    # Without memory: zeros, and the logarithm of zero.
    i_row = (i_s.to(gl.int64) * N + i_n) * Lq
    o_q = gl.program_id(0) * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(1, s_layout))
    gl.store(logsumexp + i_row + o_q, b_max + gl.log2(b_sum), mask=o_q < Lq)
    b_sum = gl.convert_layout(gl.where(b_sum > 0, b_sum, 1.0), gl.SliceLayout(1, o_layout))
    # [BM, M]
    o_q = gl.program_id(0) * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(1, o_layout))
    o_m = gl.arange(0, M, gl.SliceLayout(0, o_layout))
    p_out = parts + (i_row + o_q[:, None]) * M + o_m[None, :]
    gl.store(p_out, b_acc / b_sum[:, None], mask=o_q[:, None] < Lq)


def _tile_layout(rows: int, width: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    element = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}[dtype]
    return gl.NVMMASharedLayout.get_default_for([1, rows, width], element)


def _descriptor(pages: Tensor, rows: int) -> TensorDescriptor:
    """Return a TMA descriptor of pages [n, HW, width], for tiles [1, rows, width]."""
    _, tokens, width = pages.shape
    layout = _tile_layout(rows, width, pages.dtype)
    strides = [tokens * width, width, 1]
    return TensorDescriptor(pages, list(pages.shape), strides, [1, rows, width], layout)


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
    keys, latents, *rest = memory.flat()
    memory_attention_gluon_kernel[kernel.grid(q, parts, params)](
        q,
        _descriptor(keys, params.block_n),
        _descriptor(latents, params.block_n),
        *rest,
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
        STAGES=params.num_stages,
        EVEN=tokens % params.block_n == 0,
        num_warps=params.num_warps,
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
) -> Tensor:
    """Like `kernel.launch`, with the kernel of this file.

    The default of `params` is the choice by rule, since measurements are of the Triton kernel.
    """
    if params is None:
        params = choose(q.shape[1], q.shape[2], q.dtype, 90)
    return kernel.launch(
        q, memory, cos, sin, scale, out=out, params=params, splits=splits, attend=_attend
    )


def variants(capability: int) -> list[Variant]:
    """Return the kernel as it is launched on GPUs of `capability`; none if that is not Hopper."""
    if family(capability) != 90:
        return []
    found = []
    for dtype in HALF:
        for dim, queries in ((256, 4096), (256, 256), (128, 4096), (128, 256)):
            found.append(_variant(queries, 4096, dim, dtype, capability))
        found.append(_variant(4096, 4095, 256, dtype, capability))
    return found


def _variant(queries: int, tokens: int, dim: int, dtype: torch.dtype, capability: int) -> Variant:
    params = choose(queries, dim, dtype, capability)
    even = tokens % params.block_n == 0
    name, rows = TRITON_NAMES[dtype], params.block_n

    def descriptor(width: int) -> str:
        return f"tensordesc<{name}[1, {rows}, {width}],{_tile_layout(rows, width, dtype)!r}>"

    tensors = dict.fromkeys(("q", "pointer_keys", "pointer_latents"), f"*{name}")
    tensors |= {"parts": "*fp32", "logsumexp": "*fp32"}
    tables = dict.fromkeys(("slots", "reads", "num_reads", "num_pointers"), "*i32")
    sizes = dict.fromkeys(("stride_q", "N", "K", "P", "Lq", "HW"), "i32")
    descriptors = {"keys": descriptor(dim), "latents": descriptor(64)}
    return Variant(
        op="memory_attention",
        kernel=memory_attention_gluon_kernel,
        label=f"{name} D{dim} {params.block_m}x{rows} {'even' if even else 'odd'}",
        capability=capability,
        signature=tensors | descriptors | tables | {"scale": "fp32"} | sizes,
        constants={
            "D": dim,
            "M": 64,
            "BLOCK_M": params.block_m,
            "BLOCK_N": rows,
            "STAGES": params.num_stages,
            "EVEN": even,
        },
        num_warps=params.num_warps,
        num_stages=params.num_stages,
        has_dot=True,
        overlaps=True,
        aligned=(*tensors, "stride_q", "Lq", *(["HW"] if even else [])),
    )
