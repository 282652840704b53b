"""Triton kernels of mask output: interpolate and threshold pixels where they are used.

The logits are a few hundred KB a mask and stay in the cache; a pixel costs two dozen instructions.
So nothing of the size of the video is stored but the answer, and run lengths, which need the pixels
twice, compute them twice.

The arithmetic is that of `F.interpolate` in float32, fused multiply-adds included, so that masks
differ from PyTorch's in no pixel or in those that lie within rounding of the threshold.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.mask_output.reference import RunLengths, runs_from_changes
from fastsam2_kernels.mask_output.tuning import Launch

__all__ = ["launch_bits", "launch_bool", "launch_runs", "variants"]


@triton.jit
def _source(o, scale, n):
    """Of output coordinates, the two input coordinates between which they lie, and the weight."""
    b_at = tl.maximum(tl.fma(o.to(tl.float32) + 0.5, scale, -0.5), 0.0)
    i_0 = tl.minimum(b_at.to(tl.int32), n - 1)
    b_weight = tl.minimum(b_at - i_0.to(tl.float32), 1.0)
    return i_0, tl.minimum(i_0 + 1, n - 1), b_weight


@triton.jit
def _inside(p_image, i_y, i_x, m, h, w, scale_y, scale_x, threshold):
    """Whether output pixels (y, x) are above the threshold; `i_y` and `i_x` broadcast to `m`."""
    i_y0, i_y1, b_y = _source(i_y, scale_y, h)
    i_x0, i_x1, b_x = _source(i_x, scale_x, w)
    b_00 = tl.load(p_image + (i_y0 * w + i_x0), mask=m, other=0.0).to(tl.float32)
    b_01 = tl.load(p_image + (i_y0 * w + i_x1), mask=m, other=0.0).to(tl.float32)
    b_10 = tl.load(p_image + (i_y1 * w + i_x0), mask=m, other=0.0).to(tl.float32)
    b_11 = tl.load(p_image + (i_y1 * w + i_x1), mask=m, other=0.0).to(tl.float32)
    b_0 = tl.fma(b_00, 1.0 - b_x, b_01 * b_x)
    b_1 = tl.fma(b_10, 1.0 - b_x, b_11 * b_x)
    return (tl.fma(b_0, 1.0 - b_y, b_1 * b_y) > threshold) & m


@triton.jit
def mask_bool_kernel(
    p_logits,  # [N, h, w]
    p_out,  # [N, H, W] uint8
    threshold,
    scale_y,  # h / H
    scale_x,  # w / W
    h,
    w,
    H,
    W,
    n_y,  # tiles of rows
    n_x,  # tiles of columns
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    pid = tl.program_id(0)
    i_n = (pid // (n_x * n_y)).to(tl.int64)
    # [BY, 1], [1, BX]
    i_y = (pid // n_x % n_y * BLOCK_Y + tl.arange(0, BLOCK_Y))[:, None]
    i_x = (pid % n_x * BLOCK_X + tl.arange(0, BLOCK_X))[None, :]
    m = (i_y < H) & (i_x < W)
    # [BY, BX]
    b_in = _inside(p_logits + i_n * h * w, i_y, i_x, m, h, w, scale_y, scale_x, threshold)
    tl.store(p_out + i_n * H * W + (i_y * W + i_x), b_in.to(tl.uint8), mask=m)


@triton.jit
def mask_bits_kernel(
    p_logits,  # [N, h, w]
    p_out,  # [N, H, ceil(W / 8)] uint8
    threshold,
    scale_y,  # h / H
    scale_x,  # w / W
    h,
    w,
    H,
    W,
    n_y,  # tiles of rows
    n_x,  # tiles of bytes
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    pid = tl.program_id(0)
    i_n = (pid // (n_x * n_y)).to(tl.int64)
    W_bytes = (W + 7) // 8
    # [BY, 1], [1, BX]
    i_y = (pid // n_x % n_y * BLOCK_Y + tl.arange(0, BLOCK_Y))[:, None]
    i_byte = (pid % n_x * BLOCK_X + tl.arange(0, BLOCK_X))[None, :]
    # [BY, BX]
    b_byte = tl.zeros((BLOCK_Y, BLOCK_X), tl.int32)
    p_image = p_logits + i_n * h * w
    for k in tl.range(8):
        i_x = i_byte * 8 + k
        m = (i_y < H) & (i_x < W)
        b_in = _inside(p_image, i_y, i_x, m, h, w, scale_y, scale_x, threshold)
        b_byte = b_byte * 2 + b_in.to(tl.int32)
    m_out = (i_y < H) & (i_byte < W_bytes)
    p_o = p_out + i_n * H * W_bytes + (i_y * W_bytes + i_byte)
    tl.store(p_o, b_byte.to(tl.uint8), mask=m_out)


@triton.jit
def mask_changes_kernel(
    p_logits,  # [N, h, w]
    p_counts,  # [N, W, n_y] int32, written: changes in each column of each tile
    p_starts,  # [N, W, n_y] int64, read: index of the first of them among all
    p_changes,  # [R] int32, written: positions x H + y of the changes
    threshold,
    scale_y,  # h / H
    scale_x,  # w / W
    h,
    w,
    H,
    W,
    n_y,  # tiles of rows
    n_x,  # tiles of columns
    WRITE: tl.constexpr,  # False: count; True: write the positions
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Find the pixels that differ from the one before them in column-major order."""
    pid = tl.program_id(0)
    i_n = (pid // (n_x * n_y)).to(tl.int64)
    i_tile = pid % n_y
    # [1, BY], [BX, 1]
    i_y = (i_tile * BLOCK_Y + tl.arange(0, BLOCK_Y))[None, :]
    i_x = (pid // n_y % n_x * BLOCK_X + tl.arange(0, BLOCK_X))[:, None]
    m = (i_y < H) & (i_x < W)
    # Before the first pixel of a column comes the last of the column to its left.
    i_y_before = tl.where(i_y == 0, H - 1, i_y - 1)
    i_x_before = tl.where(i_y == 0, i_x - 1, i_x)
    p_image = p_logits + i_n * h * w
    # [BX, BY]
    b_in = _inside(p_image, i_y, i_x, m, h, w, scale_y, scale_x, threshold)
    m_before = m & (i_x_before >= 0)
    b_before = _inside(p_image, i_y_before, i_x_before, m_before, h, w, scale_y, scale_x, threshold)
    m_change = b_in != b_before
    b_change = m_change.to(tl.int32)
    # [BX]
    i_column = pid // n_y % n_x * BLOCK_X + tl.arange(0, BLOCK_X)
    o_count = (i_n * W + i_column) * n_y + i_tile
    if WRITE:
        b_start = tl.load(p_starts + o_count, mask=i_column < W, other=0)
        # [BX, BY]
        b_rank = tl.cumsum(b_change, axis=1) - b_change
        tl.store(p_changes + b_start[:, None] + b_rank, i_x * H + i_y, mask=m_change)
    else:
        tl.store(p_counts + o_count, tl.sum(b_change, axis=1), mask=i_column < W)


def _launch(kernel, logits, out, size, threshold, blocks, columns, num_warps) -> Tensor:
    """One of the kernels that write an answer in tiles; `columns` are those of `out`."""
    n, h, w = logits.shape
    height, width = size
    n_y, n_x = triton.cdiv(height, blocks[0]), triton.cdiv(columns, blocks[1])
    if n:
        kernel[(n * n_y * n_x,)](
            logits,
            out,
            threshold,
            h / height,
            w / width,
            h,
            w,
            height,
            width,
            n_y,
            n_x,
            BLOCK_Y=blocks[0],
            BLOCK_X=blocks[1],
            num_warps=num_warps,
        )
    return out


def launch_bool(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float,
    settings: Launch,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Contiguous logits [N, h, w] to bool [N, H, W]."""
    if out is None:
        out = logits.new_empty(logits.shape[0], *size, dtype=torch.bool)
    blocks = (settings.rows, settings.columns)
    as_bytes = out.view(torch.uint8)
    _launch(
        mask_bool_kernel, logits, as_bytes, size, threshold, blocks, size[1], settings.num_warps
    )
    return out


def launch_bits(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float,
    settings: Launch,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Contiguous logits [N, h, w] to packed bits, uint8 [N, H, ceil(W / 8)]."""
    columns = -(-size[1] // 8)
    if out is None:
        out = logits.new_empty(logits.shape[0], size[0], columns, dtype=torch.uint8)
    blocks = (settings.byte_rows, settings.byte_columns)
    return _launch(
        mask_bits_kernel, logits, out, size, threshold, blocks, columns, settings.num_warps
    )


def launch_runs(
    logits: Tensor, size: tuple[int, int], threshold: float, settings: Launch
) -> RunLengths:
    """Contiguous logits [N, h, w] to run lengths. Waits once for the device: for their number."""
    n, h, w = logits.shape
    height, width = size
    block_y, block_x = settings.run_rows, settings.run_columns
    n_y, n_x = triton.cdiv(height, block_y), triton.cdiv(width, block_x)
    # Counts are padded with one entry in front, so that their running sum starts with 0.
    counts = torch.zeros(n * width * n_y + 1, dtype=torch.int32, device=logits.device)

    def run(starts: Tensor, changes: Tensor, write: bool) -> None:
        mask_changes_kernel[(n * n_y * n_x,)](
            logits,
            counts[1:],
            starts,
            changes,
            threshold,
            h / height,
            w / width,
            h,
            w,
            height,
            width,
            n_y,
            n_x,
            WRITE=write,
            BLOCK_Y=block_y,
            BLOCK_X=block_x,
            num_warps=settings.num_warps,
        )

    if n:
        run(counts, counts, False)
    ends = counts.cumsum(0, dtype=torch.int64)
    # Each mask has one entry more than changes: its end.
    masks = torch.arange(n + 1, device=logits.device)
    offsets = ends[:: width * n_y] + masks
    changes = counts.new_empty(int(ends[-1]) + n)
    if n:
        starts = (ends[:-1].view(n, -1) + masks[:-1, None]).contiguous()
        run(starts, changes, True)
    return runs_from_changes(changes, offsets, height * width)


def variants(capability: int) -> list[Variant]:
    """Every kernel at every launch, as compiled for GPUs of `capability`."""
    settings = Launch()
    sizes = ("h", "w", "H", "W", "n_y", "n_x")
    numbers = dict.fromkeys(("threshold", "scale_y", "scale_x"), "fp32")
    numbers |= dict.fromkeys(sizes, "i32")
    runs = {"p_counts": "*i32", "p_starts": "*i64", "p_changes": "*i32"}
    tiles = {"BLOCK_Y": settings.run_rows, "BLOCK_X": settings.run_columns}
    found = []
    for name in ("fp32", "bf16", "fp16"):
        for kernel, label, pointers, constants in (
            (
                mask_bool_kernel,
                "bool",
                {"p_out": "*u8"},
                {"BLOCK_Y": settings.rows, "BLOCK_X": settings.columns},
            ),
            (
                mask_bits_kernel,
                "bits",
                {"p_out": "*u8"},
                {"BLOCK_Y": settings.byte_rows, "BLOCK_X": settings.byte_columns},
            ),
            (mask_changes_kernel, "count runs", runs, {"WRITE": False, **tiles}),
            (mask_changes_kernel, "write runs", runs, {"WRITE": True, **tiles}),
        ):
            signature = {"p_logits": f"*{name}", **pointers, **numbers}
            found.append(
                Variant(
                    op="mask_output",
                    kernel=kernel,
                    label=f"{name} {label} {constants['BLOCK_Y']}x{constants['BLOCK_X']}",
                    capability=capability,
                    signature=signature,
                    constants=constants,
                    num_warps=settings.num_warps,
                    num_stages=3,
                    has_dot=False,
                    # Counts begin at the second entry of their buffer.
                    aligned=("p_logits", *({*pointers} - {"p_counts"}), "h", "w"),
                )
            )
    return found
