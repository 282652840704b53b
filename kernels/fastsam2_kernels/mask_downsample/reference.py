"""Mask downsampling in plain PyTorch: the specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["EPS", "DownsampleStage", "MaskDownsampleWeights", "mask_downsample_reference"]

EPS = 1e-6  #: added to the variance in every norm


@dataclass(frozen=True)
class DownsampleStage:
    """A 3x3 convolution of stride 2 and padding 1, and the norm over channels that follows it."""

    weight: Tensor  #: [C_out, C_in, 3, 3]
    bias: Tensor  #: [C_out]
    norm_weight: Tensor  #: [C_out]
    norm_bias: Tensor  #: [C_out]


@dataclass(frozen=True)
class MaskDownsampleWeights:
    """All weights, in one dtype. The first two stages are 1 -> 4 -> 16 channels."""

    stages: tuple[DownsampleStage, ...]
    proj_weight: Tensor  #: [C, C_last, 1, 1]
    proj_bias: Tensor  #: [C]

    def flat(self) -> list[Tensor]:
        """Return the tensors in one list, as the registered op takes them."""
        out = []
        for s in self.stages:
            out += [s.weight, s.bias, s.norm_weight, s.norm_bias]
        return [*out, self.proj_weight, self.proj_bias]

    @staticmethod
    def from_flat(tensors: Sequence[Tensor]) -> MaskDownsampleWeights:
        """Return the weights from the list that `flat` returns."""
        *stages, proj_weight, proj_bias = tensors
        groups = (DownsampleStage(*stages[i : i + 4]) for i in range(0, len(stages), 4))
        return MaskDownsampleWeights(tuple(groups), proj_weight, proj_bias)


def mask_downsample_reference(
    logits: Tensor,
    scale: float,
    bias: float,
    weights: MaskDownsampleWeights,
    upsample: int = 4,
    binarize: bool = False,
) -> Tensor:
    """Specification of `op.mask_downsample`; same arguments and results, differentiable."""
    x = mask_values(logits, upsample, binarize, weights.proj_weight.dtype)
    x = (x * scale + bias).to(weights.proj_weight.dtype)[..., None]
    for stage in weights.stages:
        x = norm_gelu(convolve(x, stage.weight, stage.bias), stage.norm_weight, stage.norm_bias)
    return project(x, weights)


def mask_values(logits: Tensor, upsample: int, binarize: bool, dtype: torch.dtype) -> Tensor:
    """Return the mask [N, S_h, S_w] in 0..1; `dtype` applies to bool and integer masks."""
    if not logits.is_floating_point():
        return (logits != 0).to(dtype)
    if upsample != 1:
        logits = F.interpolate(
            logits[:, None], scale_factor=upsample, mode="bilinear", align_corners=False
        )[:, 0]
    return (logits > 0).to(logits.dtype) if binarize else logits.sigmoid()


def convolve(x_nhwc: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a strided convolution, channels last in and out."""
    out = F.conv2d(x_nhwc.permute(0, 3, 1, 2), weight, bias, stride=2, padding=1)
    return out.permute(0, 2, 3, 1).contiguous()


def norm_gelu(x_nhwc: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the norm over the channels, then GELU."""
    return F.gelu(F.layer_norm(x_nhwc, weight.shape, weight, bias, EPS))


def project(x_nhwc: Tensor, weights: MaskDownsampleWeights) -> Tensor:
    """Apply the 1x1 convolution: [N, H, W, C_last] to [N, C, H, W] in channels-last memory."""
    out = F.linear(x_nhwc, weights.proj_weight.flatten(1), weights.proj_bias)
    return out.permute(0, 3, 1, 2)
