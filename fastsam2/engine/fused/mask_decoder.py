"""The mask decoder for tracking: objects without a prompt, the best of three masks.

The prompt tokens are constants of the model, and only the mask with the best predicted IoU is
computed.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.engine.fused.batched_mlp import BatchedMLP
from fastsam2.engine.fused.cpu_tiling import objects_in_cache
from fastsam2.engine.fused.two_way import FusedTwoWayTransformer
from fastsam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from fastsam2.modeling.sam2_utils import LayerNorm2d, at_least_float32

__all__ = ["FusedMaskDecoder", "DecodedMasks"]


class DecodedMasks(NamedTuple):
    """Masks of N objects on a frame."""

    low_res_masks: Tensor  #: logits `[N, 1, S / 4, S / 4]`, float32
    ious: Tensor  #: predicted IoU of the candidate masks `[N, K]`
    obj_ptr: Tensor  #: object pointers `[N, C]`
    object_score_logits: Tensor  #: presence logits `[N, 1]`


class FusedMaskDecoder:
    """Mask decoder of N objects without prompts: a pure function of tensors.

    Args:
        model: the model whose weights it uses.
        transformer: its two-way transformer with the tokens of an empty prompt.
        heads: the heads of predicted IoU, presence and masks 1 to 3.
    """

    def __init__(
        self, model: SAM2Base, transformer: FusedTwoWayTransformer, heads: BatchedMLP
    ) -> None:
        decoder = model.sam_mask_decoder
        self.model = model
        self.decoder = decoder
        self.transformer = transformer
        self.heads = heads
        self.no_mask = model.sam_prompt_encoder.no_mask_embed.weight
        first, norm, _, second, _ = decoder.output_upscaling
        self.norm = cast(LayerNorm2d, norm)
        self.first = _as_linear(cast(nn.ConvTranspose2d, first))
        self.second = _as_linear(cast(nn.ConvTranspose2d, second))

    @classmethod
    def of(cls, model: SAM2Base) -> FusedMaskDecoder | None:
        """Reorder the weights of `model`; None if its configuration excludes that."""
        # The mask is chosen by predicted IoU; stability scores would need all masks.
        if not model._use_multimask(is_init_cond_frame=False, point_inputs=None):
            return None
        decoder = model.sam_mask_decoder
        first, norm, act1, second, act2 = decoder.output_upscaling
        convs = [cast(nn.ConvTranspose2d, conv) for conv in (first, second)]
        usual = all(conv.kernel_size == conv.stride == (2, 2) for conv in convs)
        if not usual or not isinstance(norm, LayerNorm2d) or {type(act1), type(act2)} != {nn.GELU}:
            return None
        transformer = FusedTwoWayTransformer.of(decoder.transformer, _tokens(model))
        modules = [decoder.iou_prediction_head, *decoder.output_hypernetworks_mlps[1:]]
        if decoder.pred_obj_scores:
            modules.insert(0, decoder.pred_obj_score_head)
        heads = BatchedMLP.of(modules)
        return None if transformer is None or heads is None else cls(model, transformer, heads)

    def image_offsets(self) -> tuple[Tensor, ...]:
        """Return the projected positions of the image, constants of a model."""
        return self.transformer.image_offsets(self.model.sam_prompt_encoder.get_dense_pe())

    def __call__(
        self, pix_feat: Tensor, image_offsets: tuple[Tensor, ...], high_res: list[Tensor] | None
    ) -> DecodedMasks:
        """Decode the mask of each object.

        Args:
            pix_feat: features conditioned on the memory of each, `[N, C, H, W]`.
            image_offsets: positions of the grid, see `image_offsets`.
            high_res: maps of strides 4 and 8, batch 1.
        """
        batches = pix_feat.split(objects_in_cache(pix_feat, pix_feat.shape[0]))
        parts = [self._decode(batch, image_offsets, high_res) for batch in batches]
        if len(parts) == 1:
            return parts[0]
        return DecodedMasks(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _decode(
        self, pix_feat: Tensor, image_offsets: tuple[Tensor, ...], high_res: list[Tensor] | None
    ) -> DecodedMasks:
        model, decoder, objects = self.model, self.decoder, pix_feat.shape[0]
        image = pix_feat.flatten(2).transpose(1, 2) + self.no_mask
        tokens, image = self.transformer(image, image_offsets)
        first = int(decoder.pred_obj_scores)
        masks_from = first + 1  # after the tokens of presence and IoU
        candidates = tokens[:, masks_from + 1 : masks_from + decoder.num_mask_tokens]
        inputs = torch.cat([tokens[:, :masks_from], candidates], dim=1)
        heads = self.heads(inputs.transpose(0, 1))
        ious = heads[first, :, 1 : decoder.num_mask_tokens]
        if decoder.iou_prediction_head.sigmoid_output:
            ious = ious.sigmoid()
        best = ious.argmax(-1, keepdim=True)
        upscaled = self._upscale(image.unflatten(1, pix_feat.shape[-2:]), high_res)
        weights = _select(heads[masks_from:].transpose(0, 1), best)[:, : upscaled.shape[-1]]
        masks = (upscaled.flatten(1, 2) @ weights[..., None]).reshape(
            objects, 1, *upscaled.shape[1:3]
        )
        presence = heads[0, :, :1] if first else ious.new_full((objects, 1), 10.0)
        low_res = at_least_float32(masks)
        if model.pred_obj_scores:
            low_res = torch.where(presence[..., None, None] > 0, low_res, NO_OBJ_SCORE)
        chosen = _select(candidates, best)
        token = chosen if decoder.use_multimask_token_for_obj_ptr else tokens[:, masks_from]
        return DecodedMasks(low_res, ious, model._object_pointer(token, presence), presence)

    def _upscale(self, image: Tensor, high_res: list[Tensor] | None) -> Tensor:
        """Upscale by 4, channels last: `[N, H, W, C]` to `[N, 4 H, 4 W, C / 8]`."""
        x = _enlarge(image, *self.first)
        if high_res is not None:
            x = x + high_res[1].permute(0, 2, 3, 1)
        norm = self.norm
        x = F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        x = _enlarge(F.gelu(x), *self.second)
        if high_res is not None:
            x = x + high_res[0].permute(0, 2, 3, 1)
        return F.gelu(x)


def _select(x: Tensor, index: Tensor) -> Tensor:
    """Select one row of each object: `[N, K, C]` and indices `[N, 1]` to `[N, C]`."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))[:, 0]


def _tokens(model: SAM2Base) -> Tensor:
    """Return the tokens of the mask decoder for an empty prompt, `[T, C]`."""
    decoder = model.sam_mask_decoder
    nowhere = model.no_mem_embed.new_zeros(1, 1, 2, dtype=torch.float32)
    labels = torch.full((1, 1), -1, dtype=torch.int32, device=nowhere.device)
    sparse, _ = model.sam_prompt_encoder(points=(nowhere, labels), boxes=None, masks=None)
    embeddings = [decoder.iou_token.weight, decoder.mask_tokens.weight, sparse[0]]
    if decoder.pred_obj_scores:
        embeddings.insert(0, decoder.obj_score_token.weight)
    return torch.cat(embeddings)


def _as_linear(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return weight `[4 C_out, C_in]` and bias of a 2x2 transposed convolution with stride 2, whose
    patches do not overlap, as a linear layer."""
    assert conv.bias is not None
    return conv.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), conv.bias.repeat(4)


def _enlarge(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the layer of `_as_linear`: `[N, H, W, C_in]` to `[N, 2 H, 2 W, C_out]`."""
    patches = F.linear(x, weight, bias).unflatten(-1, (2, 2, -1))
    return patches.transpose(2, 3).flatten(3, 4).flatten(1, 2)
