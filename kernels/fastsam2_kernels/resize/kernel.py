"""Triton kernel of the resize: one pass an axis, the second of which normalises.

Between the two passes there is one image of bytes, in planes. The number of taps is an argument, so
that one binary serves all sizes. All arithmetic is in int32 and exact.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES
from fastsam2_kernels.resize.normalize import normalization_table
from fastsam2_kernels.resize.reference import FRACTION_BITS, axis_order, taps_of
from fastsam2_kernels.resize.tuning import Launch, choose

__all__ = ["launch", "variants"]

BITS = tl.constexpr(FRACTION_BITS)
HALF = tl.constexpr(1 << (FRACTION_BITS - 1))


@triton.jit
def resize_axis_kernel(
    p_in,  # [B, 3, H, W] uint8, of any strides
    p_first,  # [n_out] int32
    p_weights,  # [K, n_out] int32
    p_table,  # [3, 256] if NORMALIZE, else None
    p_out,  # [B, 3, H_out, W_out], uint8 unless NORMALIZE
    s_image,
    s_channel,
    s_row,
    s_column,
    n_in,  # pixels of the resized axis of the input
    H_out,
    W_out,
    K,
    n_y,  # tiles of a column
    n_x,  # tiles of a row
    AXIS: tl.constexpr,  # 0 resizes the height, 1 the width
    NORMALIZE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Resize one axis of a tile of a plane; the other has the same size in input and output."""
    pid = tl.program_id(0)
    i_plane = pid // (n_y * n_x)
    i_channel = i_plane % 3
    # [BY, 1], [1, BX]
    i_y = (pid // n_x % n_y * BLOCK_Y + tl.arange(0, BLOCK_Y))[:, None]
    i_x = (pid % n_x * BLOCK_X + tl.arange(0, BLOCK_X))[None, :]
    # [BY, BX]
    m = (i_y < H_out) & (i_x < W_out)
    p_in += (i_plane // 3).to(tl.int64) * s_image + i_channel * s_channel

    # [BY, 1] or [1, BX]: output pixels of the resized axis
    i_o = i_y if AXIS == 0 else i_x
    n_out = H_out if AXIS == 0 else W_out
    i_first = tl.load(p_first + i_o, mask=i_o < n_out, other=0)
    b_total = tl.full((BLOCK_Y, BLOCK_X), HALF, tl.int32)
    for k in tl.range(K):
        # [BY, 1] or [1, BX]
        i_source = tl.minimum(i_first + k, n_in - 1)
        b_weight = tl.load(p_weights + k * n_out + i_o, mask=i_o < n_out, other=0)
        i_row = i_source if AXIS == 0 else i_y
        i_column = i_x if AXIS == 0 else i_source
        # [BY, BX]
        p_pixel = p_in + i_row.to(tl.int64) * s_row + i_column * s_column
        b_total += tl.load(p_pixel, mask=m, other=0).to(tl.int32) * b_weight

    # [BY, BX]
    b_byte = tl.minimum(tl.maximum(b_total >> BITS, 0), 255)
    p_out += (i_plane.to(tl.int64) * H_out + i_y) * W_out + i_x
    if NORMALIZE:
        tl.store(p_out, tl.load(p_table + i_channel * 256 + b_byte), mask=m)
    else:
        tl.store(p_out, b_byte.to(tl.uint8), mask=m)


def launch(
    images: Tensor,
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    settings: Launch | None = None,
) -> Tensor:
    """Resize and normalise images `[B, H, W, 3]`; arguments as in `resize_reference`."""
    settings = settings or choose(dtype, images.device)
    images = images.contiguous()
    n, h, w, _ = images.shape
    out = images.new_empty(n, 3, height, width, dtype=dtype)
    if n == 0:
        return out
    table = normalization_table(mean, std, dtype, images.device)
    first, second = axis_order((h, w), (height, width))
    size = (height, w) if first == 0 else (h, width)
    between = images.new_empty(n, 3, *size)
    _resize_axis(images.permute(0, 3, 1, 2), between, first, None, settings)
    _resize_axis(between, out, second, table, settings)
    return out


def _resize_axis(
    planes: Tensor, out: Tensor, axis: int, table: Tensor | None, settings: Launch
) -> None:
    """Resize the height (0) or width (1) of planes `[B, 3, H, W]`, and look up in `table`."""
    n, _, height, width = out.shape
    n_in = planes.shape[2 + axis]
    first, weights = taps_of(n_in, out.shape[2 + axis], planes.device)
    n_y, n_x = triton.cdiv(height, settings.rows), triton.cdiv(width, settings.columns)
    resize_axis_kernel[(3 * n * n_y * n_x,)](
        planes,
        first,
        weights,
        table,
        out,
        *planes.stride(),
        n_in,
        height,
        width,
        len(weights),
        n_y,
        n_x,
        AXIS=axis,
        NORMALIZE=table is not None,
        BLOCK_Y=settings.rows,
        BLOCK_X=settings.columns,
        num_warps=settings.num_warps,
    )


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    return [
        _variant(axis, name, capability)
        for axis in (0, 1)
        for name in (None, *TRITON_NAMES.values())
    ]


def _variant(axis: int, name: str | None, capability: int) -> Variant:
    """Return the first pass, or the second with results of the type `name`."""
    settings = Launch()
    tensors = {"p_in": "*u8", "p_first": "*i32", "p_weights": "*i32", "p_out": f"*{name or 'u8'}"}
    aligned = [*tensors, "n_in", "H_out", "W_out", "s_image", "s_row"]
    numbers = ["s_image", "s_row", "n_in", "H_out", "W_out", "K", "n_y", "n_x"]
    constants: dict[str, Any] = {
        "AXIS": axis,
        "NORMALIZE": name is not None,
        "BLOCK_Y": settings.rows,
        "BLOCK_X": settings.columns,
    }
    # A stride of one is a constant to the compiler.
    if name is None:  # from pixels to planes
        constants |= {"p_table": None, "s_channel": 1}
        numbers.append("s_column")
    else:
        tensors["p_table"] = f"*{name}"
        constants["s_column"] = 1
        numbers.append("s_channel")
        aligned += ["p_table", "s_channel"]
    return Variant(
        op="resize",
        kernel=resize_axis_kernel,
        label=f"{name or 'bytes'} {('height', 'width')[axis]} {settings.rows}x{settings.columns}",
        capability=capability,
        signature=tensors | dict.fromkeys(numbers, "i32"),
        constants=constants,
        num_warps=settings.num_warps,
        num_stages=3,
        has_dot=False,
        aligned=tuple(aligned),
    )
