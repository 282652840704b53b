"""Triton kernel of mask output: interpolate, threshold and compare the pixels of a tile.

The logits are a few hundred KB an object and stay in the L2 cache; a pixel costs two dozen
instructions. Nothing of video size is stored except the results. A tile that an object touches
extends its area and box by atomic operations on integers, whose order does not matter. Boxes start
at -1, which is the largest number as an unsigned integer: an object without pixels keeps it.

The arithmetic is that of `F.interpolate` in float32, fused multiply-adds included, so that masks
differ from PyTorch's at most in pixels within rounding of the threshold.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.mask_output.reference import MaskOutput
from fastsam2_kernels.mask_output.tuning import Launch, choose

__all__ = ["launch", "variants"]

NEVER = tl.constexpr(2**31 - 1)


@triton.jit
def _source(o, scale, n):
    """Neighbouring input coordinates of output coordinates, and the weight of the second."""
    b_at = tl.maximum(tl.fma(o.to(tl.float32) + 0.5, scale, -0.5), 0.0)
    i_0 = tl.minimum(b_at.to(tl.int32), n - 1)
    b_weight = tl.minimum(b_at - i_0.to(tl.float32), 1.0)
    return i_0, tl.minimum(i_0 + 1, n - 1), b_weight


@triton.jit
def _store_mask(p_bits, p_area, p_low, p_high, b_mask, i_row, i_byte, m_byte):
    """Store the pixels [BY, BX, 8] of a mask, and extend its area and box by them."""
    b_shift = 7 - tl.arange(0, 8)[None, None, :]  # the first pixel is the highest bit
    # [BY, BX]
    b_byte = tl.sum(b_mask.to(tl.int32) << b_shift, axis=2)
    tl.store(p_bits, b_byte.to(tl.uint8), mask=m_byte)
    n_set = tl.sum(b_mask.to(tl.int32))
    if n_set > 0:
        # [BY], [BX, 8]
        m_row = tl.max(b_byte, axis=1) > 0
        m_column = tl.max(b_mask.to(tl.int32), axis=0) > 0
        i_column = i_byte[:, None] * 8 + tl.arange(0, 8)[None, :]
        i_left = tl.min(tl.where(m_column, i_column, NEVER))
        i_top = tl.min(tl.where(m_row, i_row, NEVER))
        tl.atomic_add(p_area, n_set.to(tl.int64), sem="relaxed")
        tl.atomic_min(p_low, i_left.to(tl.uint32), sem="relaxed")
        tl.atomic_min(p_low + 1, i_top.to(tl.uint32), sem="relaxed")
        tl.atomic_max(p_high + 2, tl.max(tl.where(m_column, i_column, -1)), sem="relaxed")
        tl.atomic_max(p_high + 3, tl.max(tl.where(m_row, i_row, -1)), sem="relaxed")


@triton.jit
def mask_output_kernel(
    p_logits,  # [N, h, w]
    p_bits,  # [N, H, ceil(W / 8)] uint8
    p_labels,  # [H, W] int16
    p_areas,  # [N] int64, initially 0
    p_low,  # [N, 4] uint32, initially -1: the boxes, of which this is for x0 and y0
    p_high,  # [N, 4] int32, the same memory, for x1 and y1
    threshold,
    scale_y,  # h / H
    scale_x,  # w / W
    n,
    h,
    w,
    H,
    W,
    n_x,  # tiles of a row
    NON_OVERLAP: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # bytes
):
    pid = tl.program_id(0)
    W_bytes = (W + 7) // 8
    # [BY], [BX]
    i_row = pid // n_x * BLOCK_Y + tl.arange(0, BLOCK_Y)
    i_byte = pid % n_x * BLOCK_X + tl.arange(0, BLOCK_X)
    # [BY, 1, 1], [1, BX, 8]
    i_y = i_row[:, None, None]
    i_x = i_byte[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]
    # [BY, BX, 8]
    m = (i_y < H) & (i_x < W)
    # [BY, BX]
    m_byte = (i_row[:, None] < H) & (i_byte[None, :] < W_bytes)
    o_byte = i_row[:, None] * W_bytes + i_byte[None, :]

    i_y0, i_y1, b_y = _source(i_y, scale_y, h)
    i_x0, i_x1, b_x = _source(i_x, scale_x, w)
    # [BY, BX, 8]
    o_00, o_01, o_10, o_11 = i_y0 * w + i_x0, i_y0 * w + i_x1, i_y1 * w + i_x0, i_y1 * w + i_x1
    b_best = tl.full((BLOCK_Y, BLOCK_X, 8), 0.0, tl.float32) + threshold
    b_label = tl.zeros((BLOCK_Y, BLOCK_X, 8), tl.int32)
    p_image, p_out = p_logits, p_bits
    for i_n in tl.range(n):
        b_00 = tl.load(p_image + o_00).to(tl.float32)
        b_01 = tl.load(p_image + o_01).to(tl.float32)
        b_10 = tl.load(p_image + o_10).to(tl.float32)
        b_11 = tl.load(p_image + o_11).to(tl.float32)
        b_0 = tl.fma(b_00, 1.0 - b_x, b_01 * b_x)
        b_1 = tl.fma(b_10, 1.0 - b_x, b_11 * b_x)
        b_value = tl.fma(b_0, 1.0 - b_y, b_1 * b_y)
        if not NON_OVERLAP:
            _store_mask(
                p_out + o_byte, p_areas + i_n, p_low + i_n * 4, p_high + i_n * 4,
                (b_value > threshold) & m, i_row, i_byte, m_byte,
            )  # fmt: skip
            p_out += H * W_bytes
        m_highest = b_value > b_best
        b_best = tl.where(m_highest, b_value, b_best)
        b_label = tl.where(m_highest, i_n + 1, b_label)
        p_image += h * w
    tl.store(p_labels + (i_y * W + i_x), b_label.to(tl.int16), mask=m)
    if NON_OVERLAP:
        for i_n in tl.range(n):
            _store_mask(
                p_out + o_byte, p_areas + i_n, p_low + i_n * 4, p_high + i_n * 4,
                (b_label == i_n + 1) & m, i_row, i_byte, m_byte,
            )  # fmt: skip
            p_out += H * W_bytes


def launch(
    logits: Tensor,
    height: int,
    width: int,
    threshold: float,
    non_overlap: bool,
    settings: Launch | None = None,
) -> MaskOutput:
    """Contiguous logits `[N, h, w]` to masks of `size`."""
    settings = settings or choose(logits.device)
    logits = logits.contiguous()
    n, h, w = logits.shape
    row_bytes = triton.cdiv(width, 8)
    bits = logits.new_empty(n, height, row_bytes, dtype=torch.uint8)
    labels = logits.new_empty(height, width, dtype=torch.int16)
    areas = logits.new_zeros(n, dtype=torch.int64)
    boxes = logits.new_full((n, 4), -1, dtype=torch.int32)
    n_y, n_x = triton.cdiv(height, settings.rows), triton.cdiv(row_bytes, settings.columns)
    mask_output_kernel[(n_y * n_x,)](
        logits,
        bits,
        labels,
        areas,
        boxes.view(torch.uint32),
        boxes,
        threshold,
        h / height,
        w / width,
        n,
        h,
        w,
        height,
        width,
        n_x,
        NON_OVERLAP=non_overlap,
        BLOCK_Y=settings.rows,
        BLOCK_X=settings.columns,
        num_warps=settings.num_warps,
    )
    return MaskOutput(bits, labels, areas, boxes)


def variants(capability: int) -> list[Variant]:
    """All specialisations of the kernel for GPUs of `capability`."""
    settings = Launch()
    numbers = dict.fromkeys(("threshold", "scale_y", "scale_x"), "fp32")
    numbers |= dict.fromkeys(("n", "h", "w", "H", "W", "n_x"), "i32")
    results = {"p_bits": "*u8", "p_labels": "*i16", "p_areas": "*i64"}
    results |= {"p_low": "*u32", "p_high": "*i32"}
    return [
        Variant(
            op="mask_output",
            kernel=mask_output_kernel,
            label=f"{name}{' non-overlap' * non_overlap} {settings.rows}x{settings.columns}",
            capability=capability,
            signature={"p_logits": f"*{name}", **results, **numbers},
            constants={
                "NON_OVERLAP": non_overlap,
                "BLOCK_Y": settings.rows,
                "BLOCK_X": settings.columns,
            },
            num_warps=settings.num_warps,
            num_stages=3,
            has_dot=False,
            aligned=("p_logits", *results, "h", "w"),
        )
        for name in ("fp32", "bf16", "fp16")
        for non_overlap in (False, True)
    ]
