"""Public function: validation and registration."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.mask_downsample.reference import (
    MaskDownsampleWeights,
    mask_downsample_reference,
)
from fastsam2_kernels.registration import dtype_misfit, register_op

__all__ = ["mask_downsample"]


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
    """Compute features of a mask: upsample, sigmoid, scale, then convolutions with norm and GELU.

    On a GPU one kernel goes from the logits to the output of the second stage (1 -> 4 -> 16
    channels): no map of the full size S = `upsample` * h or of S / 2 is stored.

    Args:
        logits: [N, h, w] of any float dtype; or, with `upsample=1`, a bool or integer mask
            [N, S_h, S_w], non-zero in the foreground, used as 0 and 1 without a sigmoid.
        scale, bias: applied to the mask in 0..1 before the first convolution, which pads the result
            with zeros (not with `bias`).
        weights: all of one dtype, in which the features are computed and returned. Convolution
            weights from the third stage on are fastest in `torch.channels_last`.
        upsample: 4 (bilinear, `align_corners=False`) or 1.
        binarize: use 1 where the upsampled logits are above 0, instead of their sigmoid.
        impl: "auto", "triton" or "reference".

    Returns:
        [N, C, H, W] in the dtype of the weights, stored channels last; H and W are S_h and S_w
        halved in each stage, rounded up.

    Raises:
        TypeError: a dtype is not supported, or weights have several dtypes.
        ValueError: a shape, a device, `upsample` or `impl` is not valid.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `MaskDownSampler` and `_encode_new_memory` of `sam2`.
    """
    _validate(logits, weights, upsample)
    return _run(impl, logits, scale, bias, weights, upsample, binarize)


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
    # The kernels read one value per channel without a check of bounds.
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


def _fake(
    logits: Tensor, scale: float, bias: float, weights: list[Tensor], upsample: int, *_rest: object
) -> Tensor:
    n, height, width = logits.shape
    height, width = height * upsample, width * upsample
    for _ in range(len(weights) // 4):
        height, width = (height + 1) // 2, (width + 1) // 2
    out = weights[-1].new_empty(n, height, width, weights[-1].shape[0])
    return out.permute(0, 3, 1, 2)


def _flops(
    logits: tuple[int, ...],
    scale: float,
    bias: float,
    weights: list[tuple[int, ...]],
    upsample: int,
    *_rest: object,
    **_options: object,
) -> int:
    """Count the convolutions."""
    n, height, width = logits
    height, width = height * upsample, width * upsample
    total = 0
    for c_out, c_in, *_kernel in weights[:-2:4]:
        height, width = (height + 1) // 2, (width + 1) // 2
        total += 9 * c_in * c_out * height * width
    c_out, c_in, *_kernel = weights[-2]
    return 2 * n * (total + c_in * c_out * height * width)


_run = register_op(
    "mask_downsample",
    "(Tensor logits, float scale, float bias, Tensor[] weights, SymInt upsample, bool binarize) "
    "-> Tensor",
    fake=_fake,
    reference=mask_downsample_reference,
    kernel="mask_downsample.kernel:launch",
    misfit=lambda logits, scale, bias, weights, *_: dtype_misfit(weights.proj_weight.dtype),
    record=MaskDownsampleWeights,
    flops=_flops,
)
