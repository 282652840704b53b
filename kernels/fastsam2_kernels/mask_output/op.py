"""Public function: validation and registration."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.mask_output.cpu import mask_output_cpu
from fastsam2_kernels.mask_output.reference import MaskOutput, mask_output_reference
from fastsam2_kernels.registration import dtype_misfit, register_op

__all__ = ["mask_output"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
#: Kernels number the pixels of an image, including those of the last tile, in int32.
_MAX_PIXELS = 2**30
_MAX_OBJECTS = 2**15 - 1  # labels are int16


def mask_output(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float = 0.0,
    *,
    non_overlap: bool = False,
    impl: Impl = "auto",
) -> MaskOutput:
    """Compute bit-packed masks of `size`, their areas and boxes, and the label image, in one pass.

    A pixel is set if its logit, interpolated as by `F.interpolate(..., mode="bilinear",
    align_corners=False)` in float32 (float64 for float64 logits), exceeds the threshold; NaN does
    not. Its label is that of the object with the highest logit, the first of equals. Upsampled
    logits are not stored.

    Args:
        logits: `[N, h, w]` float32, float16, bfloat16 or float64; N < 2^15, h * w <= 2^30.
        size: (H, W) in pixels; H * W <= 2^30.
        threshold: logit above which a pixel is set.
        non_overlap: set each pixel in the mask of its label only.
        impl: "auto", "triton" or "reference".

    Returns:
        `bits` uint8 `[N, H, ceil(W / 8)]`, as `numpy.packbits(..., axis=-1)` writes; `labels` int16
        `[H, W]`, counted from 1, 0 without an object; `areas` int64 `[N]`, the numbers of set
        pixels; `boxes` int32 `[N, 4]`, the outermost set pixels (x0, y0, x1, y1), -1 if there are
        none.

    Raises:
        TypeError: unsupported dtype of `logits`, float64 with `impl="triton"`, or a `threshold`
            that is not a number.
        ValueError: unsupported shape, `size` or `impl`.
        RuntimeError: `impl="triton"` cannot run on this device.

    Source: `_get_orig_video_res_output` of `sam2`.
    """
    if logits.dtype not in _DTYPES:
        raise TypeError(f"logits must be of a float dtype of 16 to 64 bits, got {logits.dtype}")
    if logits.ndim != 3 or 0 in logits.shape[1:]:
        raise ValueError(f"logits must be [N, h, w], got shape {tuple(logits.shape)}")
    if logits.shape[1] * logits.shape[2] > _MAX_PIXELS or logits.shape[0] > _MAX_OBJECTS:
        raise ValueError(
            f"logits must be at most {_MAX_OBJECTS} masks of 2^30, got shape {tuple(logits.shape)}"
        )
    # Sizes are symbolic in a graph; `operator.index` would specialise them.
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(n, Integral) for n in size):
        raise ValueError(f"size must be (height, width) in whole pixels, got {size!r}")
    height, width = size
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        raise ValueError(f"size must be 1 to 2^30 pixels, got {height} x {width}")
    if not isinstance(threshold, Real):
        raise TypeError(f"threshold must be a number, got {threshold!r}")
    threshold = float(threshold)
    return MaskOutput(*_run(impl, logits, height, width, threshold, non_overlap))


# len() in a fake would specialise the number of masks.
def _fake(
    logits: Tensor, height: int, width: int, threshold: float, non_overlap: bool
) -> MaskOutput:
    return MaskOutput(
        logits.new_empty(logits.shape[0], height, (width + 7) // 8, dtype=torch.uint8),
        logits.new_empty(height, width, dtype=torch.int16),
        logits.new_empty(logits.shape[0], dtype=torch.int64),
        logits.new_empty(logits.shape[0], 4, dtype=torch.int32),
    )


_run = register_op(
    "mask_output",
    "(Tensor logits, SymInt height, SymInt width, float threshold, bool non_overlap)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=mask_output_reference,
    cpu=mask_output_cpu,
    kernel="mask_output.kernel:launch",
    misfit=lambda logits, *_: dtype_misfit(logits.dtype),
)
