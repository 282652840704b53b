"""The memory encoder for inference, on mask logits at a quarter of the image's size.

The projection of the frame's features is computed once for all objects, and no mask of the image's
size is made.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.engine.fused.cpu_tiling import objects_in_cache
from fastsam2.engine.fused.folding import fold_block
from fastsam2.modeling.memory_encoder import CXBlock, MaskDownSampler
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.modeling.sam2_utils import LayerNorm2d
from fastsam2_kernels.cx_block import CHANNELS, cx_block
from fastsam2_kernels.mask_downsample import (
    DownsampleStage,
    MaskDownsampleWeights,
    mask_downsample,
)

__all__ = ["FusedMemoryEncoder"]


class FusedMemoryEncoder:
    """Memory encoder of N objects on one frame: a pure function of tensors.

    Args:
        model: the model whose weights it uses.
        mask_weights: weights of its mask downsampler.
    """

    def __init__(self, model: SAM2Base, mask_weights: MaskDownsampleWeights) -> None:
        encoder = model.memory_encoder
        self.model = model
        self.mask_weights = mask_weights
        self.pix_feat_proj = encoder.pix_feat_proj
        self.blocks = [_block_arguments(cast(CXBlock, block)) for block in encoder.fuser.layers]
        self.out_proj = None
        if isinstance(encoder.out_proj, nn.Conv2d):
            assert encoder.out_proj.bias is not None
            self.out_proj = (encoder.out_proj.weight.flatten(1), encoder.out_proj.bias)
        self.no_object = model.no_obj_embed_spatial

    @classmethod
    def of(cls, model: SAM2Base) -> FusedMemoryEncoder | None:
        """Fold the weights of `model`; None if its configuration excludes that."""
        encoder = model.memory_encoder
        for block in encoder.fuser.layers:
            conv = cast(CXBlock, block).dwconv
            depthwise = conv.kernel_size == (7, 7) and conv.groups == conv.in_channels
            if not depthwise or conv.in_channels not in CHANNELS:
                return None
        weights = _mask_weights(encoder.mask_downsampler)
        return None if weights is None else cls(model, weights)

    def __call__(
        self,
        pix_feat: Tensor,
        masks: Tensor,
        object_score_logits: Tensor,
        *,
        is_mask_from_pts: bool,
    ) -> Tensor:
        """Encode a frame and its masks into memory.

        Args:
            pix_feat: image features, not conditioned on memory, `[1, C, H, W]`.
            masks: mask logits `[N, 1, 4 H, 4 W]`.
            object_score_logits: presence logits `[N, 1]`.
            is_mask_from_pts: the masks come from prompts.

        Returns:
            Memory in the layout of slots, `[N, H * W, M]`.
        """
        frame = self.pix_feat_proj(pix_feat.to(self.mask_weights.proj_weight.dtype))
        batch = objects_in_cache(pix_feat, masks.shape[0])
        binarize = is_mask_from_pts and self.model.binarize_mask_from_pts_for_mem_enc
        parts = [
            self._encode(frame, *part, binarize)
            for part in zip(masks.split(batch), object_score_logits.split(batch), strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _encode(
        self, frame: Tensor, masks: Tensor, object_score_logits: Tensor, binarize: bool
    ) -> Tensor:
        model = self.model
        x = frame + mask_downsample(
            masks[:, 0],
            model.sigmoid_scale_for_mem_enc,
            model.sigmoid_bias_for_mem_enc,
            self.mask_weights,
            binarize=binarize,
            impl=model.impl,
        )
        x = x.permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            x = cx_block(x, *block, impl=model.impl)
        if self.out_proj is not None:
            x = F.linear(x, *self.out_proj)
        if self.no_object is not None:
            x = torch.where(object_score_logits[..., None, None] > 0, x, x + self.no_object)
        return x.flatten(1, 2)


BlockArguments = tuple[Tensor, Tensor, Tensor, Tensor, float, Tensor, Tensor, Tensor, Tensor]


def _block_arguments(block: CXBlock) -> BlockArguments:
    """Return the arguments of `cx_block` after the first."""
    folded, conv, norm = fold_block(block), block.dwconv, block.norm
    assert conv.bias is not None
    return (
        # Channels last, as the kernel reads it.
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
    """Arrange the downsampler's weights; None if its stages are not those the kernel supports."""
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
        # The first two stages run in one kernel, the others as library convolutions.
        layout = torch.contiguous_format if i < 6 else torch.channels_last
        weight = conv.weight.contiguous(memory_format=layout)
        found.append(DownsampleStage(weight, conv.bias, norm.weight, norm.bias))
        channels *= 4
    if len(found) < 2:
        return None
    last = cast(nn.Conv2d, last)
    assert last.bias is not None
    return MaskDownsampleWeights(tuple(found), last.weight, last.bias)
