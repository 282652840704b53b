"""Public function: validation and registration."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.cx_block.reference import cx_block_reference
from fastsam2_kernels.cx_block.tuning import CHANNELS
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.launch_config import HALF
from fastsam2_kernels.registration import dtype_misfit, register_op
from fastsam2_kernels.validation import check_tensors

__all__ = ["cx_block"]


def cx_block(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Compute `x + w2 gelu(w1 norm(conv(x)) + b1) + b2` in each pixel, with a depthwise `conv`.

    ConvNeXt's layer scale (gamma) must be folded into `w2` and `b2`.

    Args:
        x: [N, H, W, C], contiguous: channels last in memory, C = 128 or 256. An NCHW tensor in
            the `channels_last` memory format is `x.permute(0, 2, 3, 1)` here, without a copy.
        dw_weight: [C, 7, 7], applied with zero padding of 3; contiguous, or a view of a contiguous
            [7, 7, C], which loads fastest.
        dw_bias, norm_weight, norm_bias, b2: [C].
        eps: added to the variance over the channels.
        w1: [4 C, C]; b1: [4 C]; w2: [C, 4 C]: as in `torch.nn.Linear`.
        impl: "auto" selects the kernels on a GPU for float16 and bfloat16, and PyTorch's layers
            otherwise. "triton" also supports float32.

    Returns:
        [N, H, W, C], contiguous, in the dtype of `x`, which all arguments share.

    Raises:
        TypeError: dtypes differ or are not supported.
        ValueError: shapes, strides, devices or `impl` are not valid.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `CXBlock` of `sam2`; ConvNeXt: arXiv 2201.03545.
    """
    if x.ndim != 4 or x.shape[-1] not in CHANNELS:
        raise ValueError(f"x must be [N, H, W, C], C one of {CHANNELS}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got {x.dtype}")
    if not x.is_contiguous():
        raise ValueError(
            f"x must be contiguous, channels last, got strides {x.stride()} for {tuple(x.shape)}"
        )
    c = x.shape[-1]
    taps_first = dw_weight.ndim == 3 and dw_weight.permute(1, 2, 0).is_contiguous()
    taps, shape = (dw_weight.permute(1, 2, 0), (7, 7, c)) if taps_first else (dw_weight, (c, 7, 7))
    check_tensors(
        x.device,
        (
            ("dw_weight", taps, shape, x.dtype),
            ("dw_bias", dw_bias, (c,), x.dtype),
            ("norm_weight", norm_weight, (c,), x.dtype),
            ("norm_bias", norm_bias, (c,), x.dtype),
            ("w1", w1, (4 * c, c), x.dtype),
            ("b1", b1, (4 * c,), x.dtype),
            ("w2", w2, (c, 4 * c), x.dtype),
            ("b2", b2, (c,), x.dtype),
        ),
    )
    return _run(impl, x, dw_weight, dw_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2)


def _flops(x: tuple[int, ...], *_rest: object, **_options: object) -> int:
    n, height, width, c = x
    return 2 * n * height * width * (49 * c + 8 * c * c)


_run = register_op(
    "cx_block",
    "(Tensor x, Tensor dw_weight, Tensor dw_bias, Tensor norm_weight, Tensor norm_bias, float eps, "
    "Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x),
    reference=cx_block_reference,
    kernel="cx_block.kernel:launch",
    misfit=lambda x, *_: dtype_misfit(x.dtype),
    prefers=lambda x, *_: x.dtype in HALF,
    flops=_flops,
)
