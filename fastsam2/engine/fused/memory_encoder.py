"""The memory encoder as it runs in inference: from mask logits at a quarter of the image's size.

What depends on the frame alone is computed once for all objects, and no mask of the image's size is
made.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.engine.fused.cpu_tiling import objects_in_cache
from fastsam2.engine.fused.fast_path import FastPath
from fastsam2.engine.fused.folding import fold_block
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.modeling.memory_encoder import CXBlock, MaskDownSampler
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.modeling.sam2_utils import LayerNorm2d
from fastsam2_kernels.cx_block import CHANNELS, cx_block
from fastsam2_kernels.mask_downsample import (
    DownsampleStage,
    MaskDownsampleWeights,
    mask_downsample,
)

__all__ = ["FusedMemoryEncoder", "memory_writer"]


class FusedMemoryEncoder:
    """Makes memory of a frame and its masks; made of the weights of a model.

    Calling it is a pure function of tensors.
    """

    def __init__(self, model: SAM2Base, mask_weights: MaskDownsampleWeights) -> None:
        encoder = model.memory_encoder
        self.mask_weights = mask_weights
        self.pix_feat_proj = encoder.pix_feat_proj
        self.blocks = [_block_arguments(cast(CXBlock, block)) for block in encoder.fuser.layers]
        self.out_proj = None
        if isinstance(encoder.out_proj, nn.Conv2d):
            assert encoder.out_proj.bias is not None
            self.out_proj = (encoder.out_proj.weight.flatten(1), encoder.out_proj.bias)
        self.position_encoding = encoder.position_encoding
        self.no_object = model.no_obj_embed_spatial
        self.impl = model.impl

    def __call__(
        self,
        pix_feat: Tensor,
        masks: Tensor,
        presence: Tensor,
        *,
        scale: float,
        bias: float,
        binarize: bool,
    ) -> Tensor:
        """Memory of N objects on one frame, `[N, M, H, W]`.

        Args:
            pix_feat: image features, not conditioned on memory, `[1, C, H, W]`.
            masks: mask logits `[N, 1, 4 H, 4 W]`.
            presence: presence logits `[N, 1]`.
            scale, bias: applied to masks in 0..1.
            binarize: remember the mask the user sees, not how sure the model is of it.
        """
        with without_autocast(pix_feat.device):
            frame = self.pix_feat_proj(pix_feat.to(self.mask_weights.proj_weight.dtype))
            batch = objects_in_cache(pix_feat, masks.shape[0])
            return torch.cat(
                [
                    self._write(frame, *some, scale=scale, bias=bias, binarize=binarize)
                    for some in zip(masks.split(batch), presence.split(batch), strict=True)
                ]
            )

    def _write(
        self,
        frame: Tensor,
        masks: Tensor,
        presence: Tensor,
        *,
        scale: float,
        bias: float,
        binarize: bool,
    ) -> Tensor:
        x = frame + mask_downsample(
            masks[:, 0],
            scale,
            bias,
            self.mask_weights,
            binarize=binarize,
            impl=self.impl,
        )
        x = x.permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            x = cx_block(x, *block, impl=self.impl)
        if self.out_proj is not None:
            x = F.linear(x, *self.out_proj)
        if self.no_object is not None:
            x = torch.where(presence[..., None, None] > 0, x, x + self.no_object)
        return x.permute(0, 3, 1, 2)

    def positions(self, memory: Tensor) -> list[Tensor]:
        """Positions of memory, as a list of one map."""
        return [self.position_encoding(memory)]


BlockArguments = tuple[Tensor, Tensor, Tensor, Tensor, float, Tensor, Tensor, Tensor, Tensor]


def _block_arguments(block: CXBlock) -> BlockArguments:
    """Arguments of `cx_block` after the image."""
    folded, conv, norm = fold_block(block), block.dwconv, block.norm
    assert conv.bias is not None
    return (
        # In memory in the order in which the kernel reads it: a pixel of all channels at a time.
        conv.weight[:, 0].permute(1, 2, 0).contiguous().permute(2, 0, 1),
        conv.bias,
        norm.weight,
        norm.bias,
        norm.eps,
        block.pwconv1.weight,
        block.pwconv1.bias,
        folded.weight,
        folded.bias,
    )


def _mask_weights(module: MaskDownSampler) -> MaskDownsampleWeights | None:
    """None where the stages are not those the kernel is written for."""
    *stages, last = module.encoder
    found, channels = [], 1
    for i in range(0, len(stages), 3):
        conv, norm = cast(nn.Conv2d, stages[i]), cast(LayerNorm2d, stages[i + 1])
        expected = (channels, 4 * channels, (3, 3), (2, 2), (1, 1))
        if expected != (
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
        ):
            return None
        assert conv.bias is not None
        # The first two stages are one kernel of its own, the others library convolutions.
        layout = torch.contiguous_format if i < 6 else torch.channels_last
        weight = conv.weight.contiguous(memory_format=layout)
        found.append(DownsampleStage(weight, conv.bias, norm.weight, norm.bias))
        channels *= 4
    if len(found) < 2:
        return None
    last = cast(nn.Conv2d, last)
    assert last.bias is not None
    return MaskDownsampleWeights(tuple(found), last.weight, last.bias)


def _build(model: SAM2Base) -> FusedMemoryEncoder | None:
    encoder = model.memory_encoder
    for block in encoder.fuser.layers:
        conv = cast(CXBlock, block).dwconv
        depthwise = conv.kernel_size == (7, 7) and conv.groups == conv.in_channels
        if not depthwise or conv.in_channels not in CHANNELS:
            return None
    weights = _mask_weights(encoder.mask_downsampler)
    return None if weights is None else FusedMemoryEncoder(model, weights)


#: The writer of a model; None where its own module must run.
memory_writer = FastPath(["memory_encoder"], _build, lambda model: [model.no_obj_embed_spatial])
