"""What is answered for objects: masks, how good and how visible they are, and pointers.

The functions are methods of `SAM2Base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.modeling.sam2_utils import at_least_float32, logits_of_mask

if TYPE_CHECKING:
    from fastsam2.modeling.sam2_base import SAM2Base

__all__ = [
    "NO_OBJ_SCORE",
    "MaskOutput",
    "choose_mask",
    "decode_all_masks",
    "decode_masks",
    "mask_as_output",
    "mix_no_object",
    "object_pointer",
]

#: Mask logit wherever an object is absent.
NO_OBJ_SCORE = -1024.0


class MaskOutput(NamedTuple):
    """What one frame says of B objects."""

    low_res_masks: Tensor  #: logits `[B, 1, S / 4, S / 4]`, float32
    ious: Tensor  #: predicted IoU `[B, M]` of all candidate masks
    obj_ptr: Tensor  #: object pointer `[B, C]`
    object_score_logits: Tensor  #: presence logits `[B, 1]`


def decode_masks(
    model: SAM2Base,
    pix_feat: Tensor,
    high_res_features: list[Tensor] | None,
    points: tuple[Tensor, Tensor] | None = None,
    mask_prompt: Tensor | None = None,
    multimask_output: bool = False,
) -> MaskOutput:
    """Prompt encoder and mask decoder.

    Args:
        pix_feat: features, conditioned on memory, `[B, C, H, W]`.
        high_res_features: maps of strides 4 and 8.
        points: (x, y) in pixels of the model's input `[B, P, 2]`, and labels `[B, P]`.
        mask_prompt: mask logits `[B, 1, h, w]`, resized if they are not S / 4 wide.
        multimask_output: choose the best of three masks by predicted IoU.
    """
    decoded = model.decode_all_masks(
        pix_feat, high_res_features, points, mask_prompt, multimask_output
    )
    return model.choose_mask(*decoded, multimask_output)


def decode_all_masks(
    model: SAM2Base,
    pix_feat: Tensor,
    high_res_features: list[Tensor] | None,
    points: tuple[Tensor, Tensor] | None,
    mask_prompt: Tensor | None,
    multimask_output: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `decode_masks`, without a choice.

    Returns:
        Mask logits `[B, M, S / 4, S / 4]`, predicted IoU `[B, M]`, output tokens `[B, M, C]` or
        `[B, 1, C]`, presence logits `[B, 1]`.
    """
    batch, device = len(pix_feat), pix_feat.device
    if points is None:
        coords = torch.zeros(batch, 1, 2, device=device)
        points = (coords, torch.full((batch, 1), -1, dtype=torch.int32, device=device))
    size = model.sam_prompt_encoder.mask_input_size
    if mask_prompt is not None and mask_prompt.shape[-2:] != size:
        mask_prompt = F.interpolate(
            at_least_float32(mask_prompt), size, mode="bilinear", antialias=True
        )
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask_prompt)
    masks, ious, tokens, presence = model.sam_mask_decoder(
        image_embeddings=pix_feat,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
        repeat_image=False,
        high_res_features=high_res_features,
    )
    masks = at_least_float32(masks)
    if model.pred_obj_scores:
        masks = torch.where(presence[..., None, None] > 0, masks, NO_OBJ_SCORE)
    return masks, ious, tokens, presence


def choose_mask(
    model: SAM2Base,
    masks: Tensor,
    ious: Tensor,
    tokens: Tensor,
    presence: Tensor,
    multimask_output: bool,
) -> MaskOutput:
    """The best of what `decode_all_masks` returned."""
    token = tokens[:, 0]
    if multimask_output:
        best, rows = ious.argmax(-1), torch.arange(len(ious), device=ious.device)
        masks = masks[rows, best].unsqueeze(1)
        if tokens.shape[1] > 1:
            token = tokens[rows, best]
    return MaskOutput(
        low_res_masks=masks,
        ious=ious,
        obj_ptr=model._object_pointer(token, presence),
        object_score_logits=presence,
    )


def mask_as_output(
    model: SAM2Base, pix_feat: Tensor, high_res_features: list[Tensor] | None, mask: Tensor
) -> MaskOutput:
    """Take a given mask `[B, 1, S, S]`, 1 inside and 0 outside, for the answer.

    The decoder only serves to make a pointer of it; the object is present where the mask is not
    empty.
    """
    mask = at_least_float32(mask)
    high_res = logits_of_mask(mask)
    size = [n // 4 for n in high_res.shape[-2:]]
    low_res = F.interpolate(high_res, size, mode="bilinear", antialias=True)
    present = mask.flatten(1).gt(0).any(1, keepdim=True).to(model.dtype)
    if model.use_obj_ptrs_in_encoder:
        prompt = model.mask_downsample(mask.to(model.mask_downsample.weight.dtype))
        pointer = model.decode_masks(pix_feat, high_res_features, mask_prompt=prompt).obj_ptr
    else:
        pointer = pix_feat.new_zeros(len(mask), model.hidden_dim)
    if model.pred_obj_scores:
        pointer = model._mix_no_object(pointer, present)
    return MaskOutput(
        low_res_masks=low_res,
        ious=torch.ones_like(present),
        obj_ptr=pointer,
        object_score_logits=logits_of_mask(present),
    )


def object_pointer(model: SAM2Base, token: Tensor, presence: Tensor) -> Tensor:
    """The pointer `[B, C]` of an output token, or the no-object pointer."""
    pointer = model.obj_ptr_proj(token)
    if not model.pred_obj_scores:
        return pointer
    present = presence.sigmoid() if model.soft_no_obj_ptr else (presence > 0).to(pointer.dtype)
    return model._mix_no_object(pointer, present)


def mix_no_object(model: SAM2Base, pointer: Tensor, present: Tensor) -> Tensor:
    if model.fixed_no_obj_ptr:
        pointer = present * pointer
    return pointer + (1 - present) * model.no_obj_ptr
