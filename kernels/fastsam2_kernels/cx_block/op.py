"""The public function: validation, choice of implementation, registration with PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastsam2_kernels.cx_block.reference import cx_block_reference
from fastsam2_kernels.cx_block.tuning import CHANNELS
from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import on_its_device

__all__ = ["cx_block"]

_HALF = (torch.float16, torch.bfloat16)


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
    """`x + w2 gelu(w1 norm(conv(x)) + b1) + b2` in each pixel, `conv` depthwise.

    The scale that ConvNeXt applies to its branch (gamma) is to be folded into `w2` and `b2`.

    Args:
        x: [N, H, W, C], contiguous: channels last in memory, C = 128 or 256. An NCHW tensor in
            the `channels_last` memory format is `x.permute(0, 2, 3, 1)` here, without a copy.
        dw_weight: [C, 7, 7], applied with zero padding of 3. Its rows of 7 must follow each
            other; memory in the order [7, 7, C] loads fastest.
        dw_bias, norm_weight, norm_bias, b2: [C].
        eps: added to the variance over the channels.
        w1: [4 C, C]; b1: [4 C]; w2: [C, 4 C]: as in `torch.nn.Linear`.
        impl: "auto" takes the kernels on a GPU for float16 and bfloat16, which its tensor cores
            multiply, and PyTorch's layers for the rest. "triton" also takes float32.

    Returns:
        [N, H, W, C], contiguous, in the dtype of `x`, which is that of all arguments.

    Raises:
        TypeError: dtypes differ or are not supported.
        ValueError: shapes, strides, devices or `impl` do not fit.
        RuntimeError: `impl="triton"` cannot run there.

    Source: `CXBlock` of `sam2`; ConvNeXt: arXiv 2201.03545.
    """
    parameters = (dw_weight, dw_bias, norm_weight, norm_bias, w1, b1, w2, b2)
    _check(x, *parameters)
    if impl == "auto":
        return _cx_block(
            x, dw_weight, dw_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2
        )  # fmt: skip
    if not uses_triton(impl, x):
        return cx_block_reference(
            x, dw_weight, dw_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2
        )
    if x.dtype not in (*_HALF, torch.float32):
        raise TypeError(f"impl='triton' takes float16, bfloat16 or float32, not {x.dtype}")
    return _launch(x, dw_weight, dw_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2)


def _check(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
) -> None:
    if x.ndim != 4 or x.shape[-1] not in CHANNELS:
        raise ValueError(f"x must be [N, H, W, C], C one of {CHANNELS}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got {x.dtype}")
    if not x.is_contiguous():
        raise ValueError(
            f"x must be contiguous, channels last, got strides {x.stride()} for {tuple(x.shape)}"
        )
    c = x.shape[-1]
    for name, parameter, shape in (
        ("dw_weight", dw_weight, (c, 7, 7)),
        ("dw_bias", dw_bias, (c,)),
        ("norm_weight", norm_weight, (c,)),
        ("norm_bias", norm_bias, (c,)),
        ("w1", w1, (4 * c, c)),
        ("b1", b1, (4 * c,)),
        ("w2", w2, (c, 4 * c)),
        ("b2", b2, (c,)),
    ):
        if parameter.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(parameter.shape)}")
        if parameter.dtype != x.dtype:
            raise TypeError(f"{name} must be {x.dtype} as x is, got {parameter.dtype}")
        if parameter.device != x.device:
            raise ValueError(f"{name} must be on {x.device} as x is, got {parameter.device}")
        if name == "dw_weight":
            fits = parameter.stride(1) == 7 * parameter.stride(2)
        else:
            fits = parameter.is_contiguous()
        if not fits:
            raise ValueError(f"{name} must be contiguous, got strides {parameter.stride()}")


@on_its_device
def _launch(
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
) -> Tensor:
    from fastsam2_kernels.cx_block.kernel import launch

    return launch(x, dw_weight, dw_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2)


@torch.library.custom_op("fastsam2::cx_block", mutates_args=(), device_types="cuda")
def _cx_block(
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
) -> Tensor:
    run = _launch if x.dtype in _HALF and uses_triton("auto", x) else cx_block_reference
    return run(x, dw_weight, dw_bias, norm_weight, norm_bias, eps, w1, b1, w2, b2)


_cx_block.register_kernel("cpu")(cx_block_reference)


@_cx_block.register_fake
def _(
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
) -> Tensor:
    return torch.empty_like(x)


@register_flop_formula(torch.ops.fastsam2.cx_block)
def _flops(x: tuple[int, ...], *_rest: object, **_options: object) -> int:
    n, height, width, c = x
    return 2 * n * height * width * (49 * c + 8 * c * c)
