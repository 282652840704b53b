"""The public function: validation, registration and choice of implementation."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import on_its_device
from fastsam2_kernels.mask_downsample.reference import (
    DownsampleStage,
    MaskDownsampleWeights,
    convolve,
    mask_downsample_reference,
    project,
)
from fastsam2_kernels.mask_downsample.tuning import choose

__all__ = ["mask_downsample"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def mask_downsample(
    logits: Tensor,
    scale: float,
    bias: float,
    weights: MaskDownsampleWeights,
    *,
    upsample: int = 4,
    binarize: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """Features of a mask: upsample, sigmoid, scale, then strided convolutions with norm and GELU.

    The mask at full size S = `upsample` * h, the stages 1 -> 4 -> 16 on it and what lies between
    are one kernel on a GPU: nothing of width S or S / 2 is ever stored.

    Args:
        logits: [N, h, w] of any float dtype; or, with `upsample=1`, a mask [N, S_h, S_w] of bool or
            integers, non-zero inside, whose values 0 and 1 are taken as they are.
        scale, bias: applied to the mask in 0..1 before the first convolution, which pads the result
            with zeros (not with `bias`).
        weights: all of one dtype, which is that of the features and of the arithmetic. Convolution
            weights from the third stage on are best stored in `torch.channels_last`.
        upsample: 4 (bilinear, `align_corners=False`) or 1.
        binarize: 1 where the upsampled logits are above 0 instead of their sigmoid.
        impl: "auto", "triton" or "reference".

    Returns:
        [N, C, H, W] in the dtype of the weights, stored channels last; H and W are S halved once a
        stage, rounded up.

    Raises:
        TypeError: a dtype that cannot be used, or weights of several dtypes.
        ValueError: a shape, a device, `upsample` or `impl` that cannot be used.
        RuntimeError: `impl="triton"` where it cannot run.

    Source: `MaskDownSampler` and `_encode_new_memory` of `sam2`.
    """
    _validate(logits, weights, upsample)
    arguments = (logits, weights.flat(), scale, bias, upsample, binarize)
    if impl == "auto":
        return _registered(*arguments)
    return (_triton if uses_triton(impl, logits) else _plain)(*arguments)


@torch.library.custom_op("fastsam2::mask_downsample", mutates_args=(), device_types="cuda")
def _registered(
    logits: Tensor,
    weights: list[Tensor],
    scale: float,
    bias: float,
    upsample: int,
    binarize: bool,
) -> Tensor:
    if not uses_triton("auto", logits) or weights[0].dtype not in _DTYPES:
        return _plain(logits, weights, scale, bias, upsample, binarize)
    return _triton(logits, weights, scale, bias, upsample, binarize)


@_registered.register_kernel("cpu")
def _plain(
    logits: Tensor,
    weights: list[Tensor],
    scale: float,
    bias: float,
    upsample: int,
    binarize: bool,
) -> Tensor:
    named = MaskDownsampleWeights.from_flat(weights)
    return mask_downsample_reference(
        logits, scale, bias, named, upsample=upsample, binarize=binarize
    )


@_registered.register_fake
def _fake(
    logits: Tensor,
    weights: list[Tensor],
    scale: float,
    bias: float,
    upsample: int,
    binarize: bool,
) -> Tensor:
    n, height, width = logits.shape
    height, width = height * upsample, width * upsample
    for _ in range(len(weights) // 4):
        height, width = (height + 1) // 2, (width + 1) // 2
    out = weights[-1].new_empty(n, height, width, weights[-1].shape[0])
    return out.permute(0, 3, 1, 2)


@on_its_device
def _triton(
    logits: Tensor,
    weights: list[Tensor],
    scale: float,
    bias: float,
    upsample: int,
    binarize: bool,
) -> Tensor:
    """Two stages in one kernel, then a library convolution and a fused norm a stage.

    At S = 1024 the third and fourth stage are 0.3 and 1.2 GFLOP of dense convolution, and their
    maps (128 x 128 x 64, 64 x 64 x 256) 2 MB each in half precision, which stay in the L2 cache. So
    the library's implicit GEMM is kept, and what is saved is a launch and a round trip of the map a
    stage: norm and GELU in place, in one kernel.
    """
    from fastsam2_kernels.mask_downsample.kernel import launch, launch_norm_gelu

    named = MaskDownsampleWeights.from_flat(weights)
    first, second = (
        DownsampleStage(*(weight.contiguous() for weight in weights[i : i + 4])) for i in (0, 4)
    )
    if not logits.is_floating_point():
        logits = (logits if logits.dtype == torch.bool else logits != 0).view(torch.uint8)
    settings = choose(weights[0].dtype, logits.device)
    x = launch(
        logits.contiguous(),
        scale,
        bias,
        first,
        second,
        settings,
        upsample=upsample,
        binarize=binarize,
    )
    for stage in named.stages[2:]:
        x = convolve(x, stage.weight, stage.bias)
        launch_norm_gelu(
            x, stage.norm_weight.contiguous(), stage.norm_bias.contiguous(), settings, out=x
        )
    return project(x, named)


def _validate(logits: Tensor, weights: MaskDownsampleWeights, upsample: int) -> None:
    if logits.ndim != 3:
        raise ValueError(f"logits must be [N, h, w], got shape {tuple(logits.shape)}")
    if logits.shape[1] == 0 or logits.shape[2] == 0:
        raise ValueError(f"logits must have rows and columns, got shape {tuple(logits.shape)}")
    if logits.is_complex():
        raise TypeError(f"logits must be real, got {logits.dtype}")
    if upsample not in (1, 4):
        raise ValueError(f"upsample must be 1 or 4, got {upsample}")
    if upsample != 1 and not logits.is_floating_point():
        raise TypeError(f"a mask of {logits.dtype} is not upsampled: upsample must be 1")
    flat = weights.flat()
    dtypes = {weight.dtype for weight in flat}
    if len(dtypes) > 1 or not flat[0].is_floating_point():
        raise TypeError(f"weights must be of one float dtype, got {sorted(map(str, dtypes))}")
    shapes = [tuple(stage.weight.shape) for stage in weights.stages]
    channels = [1, 4, 16, *(shape[0] for shape in shapes[2:])]
    if len(shapes) < 2 or shapes != [(b, a, 3, 3) for a, b in pairwise(channels)]:
        raise ValueError(f"stages must be 3x3 convolutions 1 -> 4 -> 16 -> ..., got {shapes}")
    if tuple(weights.proj_weight.shape[1:]) != (channels[-1], 1, 1):
        raise ValueError(
            f"proj_weight must be [C, {channels[-1]}, 1, 1], got {tuple(weights.proj_weight.shape)}"
        )
    # The kernels read as many values as there are channels, whatever a vector holds.
    vectors = [t for s in weights.stages for t in (s.bias, s.norm_weight, s.norm_bias)]
    widths = [width for width in channels[1:] for _ in range(3)] + [weights.proj_weight.shape[0]]
    for vector, width in zip([*vectors, weights.proj_bias], widths, strict=True):
        if tuple(vector.shape) != (width,):
            raise ValueError(
                f"biases and norms must be [{width}] as the channels are, got {tuple(vector.shape)}"
            )
    for weight in flat:
        if weight.device != logits.device:
            raise ValueError(f"weights must be on {logits.device} as logits are: {weight.device}")


@register_flop_formula(torch.ops.fastsam2.mask_downsample)
def _flops(
    logits: tuple[int, ...],
    weights: list[tuple[int, ...]],
    scale: float,
    bias: float,
    upsample: int,
    *_rest: object,
    **_options: object,
) -> int:
    """Of the convolutions."""
    n, height, width = logits
    height, width = height * upsample, width * upsample
    total = 0
    for c_out, c_in, *_kernel in weights[:-2:4]:
        height, width = (height + 1) // 2, (width + 1) // 2
        total += 9 * c_in * c_out * height * width
    c_out, c_in, *_kernel = weights[-2]
    return 2 * n * (total + c_in * c_out * height * width)
