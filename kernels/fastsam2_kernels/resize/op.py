"""Public function: validation and registration."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.launch_config import TRITON_NAMES
from fastsam2_kernels.registration import register_op
from fastsam2_kernels.resize.cpu import resize_cpu
from fastsam2_kernels.resize.reference import resize_reference

__all__ = ["resize"]

#: Sums of weighted bytes fit into int32 up to this size, whatever the scale.
_MAX_SIDE = 2**16


def resize(
    images: Tensor,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
) -> Tensor:
    """Resize RGB images as Pillow's bicubic filter does, bit for bit, and normalise them.

    Each byte of the resized image becomes `(byte / 255 - mean) / std`, computed in float32 and
    rounded to `dtype`. The axes are resized in the order of the installed version of Pillow, which
    differs for portrait images from version 13 on. On a CPU, "auto" selects Pillow itself.

    Args:
        images: uint8 `[B, H, W, 3]`, 1 to 2^16 pixels per side.
        size: (height, width) in pixels, each 1 to 2^16.
        mean, std: of each channel, for values in 0..1; `std` is not 0.
        dtype: float32, float16 or bfloat16.
        impl: "auto", "triton" or "reference".

    Returns:
        `[B, 3, height, width]` of `dtype`, contiguous.

    Raises:
        TypeError: `images` are not uint8, or `dtype` is not supported.
        ValueError: unsupported shape, `size`, `mean`, `std` or `impl`.
        RuntimeError: `impl="triton"` cannot run on this device.

    Source: `Image.resize` of Pillow; `_load_img_as_tensor` of `sam2`.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if dtype not in TRITON_NAMES:
        raise TypeError(f"dtype must be float16, bfloat16 or float32, not {dtype}")
    sides = images.shape[1:3]
    if images.ndim != 4 or images.shape[3] != 3 or not all(1 <= n <= _MAX_SIDE for n in sides):
        raise ValueError(
            f"images must be [B, H, W, 3] of 1 to 2^16 pixels per side, got {tuple(images.shape)}"
        )
    # Sizes are symbolic in a graph; `operator.index` would specialise them.
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(n, Integral) and 1 <= n <= _MAX_SIDE for n in size):
        raise ValueError(f"size must be (height, width), each 1 to 2^16 pixels, got {size!r}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(isinstance(x, Real) for x in values):
            raise ValueError(f"{name} must be three numbers, got {values!r}")
    if 0 in std:
        raise ValueError(f"std must not be 0, got {std!r}")
    height, width = size
    return _run(impl, images, height, width, [*map(float, mean)], [*map(float, std)], dtype)


def _fake(
    images: Tensor, height: int, width: int, mean: object, std: object, dtype: torch.dtype
) -> Tensor:
    return images.new_empty(images.shape[0], 3, height, width, dtype=dtype)


_run = register_op(
    "resize",
    "(Tensor images, SymInt height, SymInt width, float[] mean, float[] std, ScalarType dtype)"
    " -> Tensor",
    fake=_fake,
    reference=resize_reference,
    cpu=resize_cpu,
    kernel="resize.kernel:launch",
)
