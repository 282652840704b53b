"""One frame as programs run it themselves: dictionaries in, a dictionary out, as in `sam2`.

The functions are methods of `SAM2Base` under their official names. They go through the model's own
modules, take any number of objects at once, and let gradients through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastsam2.errors import InputError, StateError
from fastsam2.modeling.memory_selection import SelectionRules, select_memory
from fastsam2.modeling.memory_tokens import memory_tokens
from fastsam2.modeling.sam2_utils import at_least_float32, logits_of_mask

if TYPE_CHECKING:
    from fastsam2.modeling.mask_answers import MaskOutput
    from fastsam2.modeling.sam2_base import SAM2Base

__all__ = [
    "encode_new_memory",
    "forward_sam_heads",
    "prepare_memory_conditioned_features",
    "track_step",
    "use_mask_as_output",
]

#: All masks at S / 4 and at S, predicted IoU, the best mask at S / 4 and at S, pointer, presence.
Heads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def track_step(
    model: SAM2Base,
    frame_idx: int,
    is_init_cond_frame: bool,
    current_vision_feats: Sequence[Tensor],
    current_vision_pos_embeds: Sequence[Tensor],
    feat_sizes: Sequence[tuple[int, int]],
    point_inputs: Mapping[str, Tensor] | None,
    mask_inputs: Tensor | None,
    output_dict: Mapping[str, Mapping[int, Mapping[str, Any]]],
    num_frames: int | None,
    track_in_reverse: bool = False,
    run_mem_encoder: bool = True,
    prev_sam_mask_logits: Tensor | None = None,
) -> dict[str, Any]:
    """Find B objects on a frame.

    Args:
        frame_idx: which frame it is.
        is_init_cond_frame: it is prompted before it was tracked: memory is not read.
        current_vision_feats: features, `[H * W, B, C]` a level, see `_prepare_backbone_features`.
        current_vision_pos_embeds: their positions.
        feat_sizes: (H, W) of each level.
        point_inputs: `point_coords` in pixels of the model's input `[B, P, 2]`, and `point_labels`
            `[B, P]`.
        mask_inputs: masks `[B, 1, S, S]`, then no points.
        output_dict: what was returned for earlier frames, by `"cond_frame_outputs"` and
            `"non_cond_frame_outputs"` and then by frame.
        num_frames: length of the video, None for a stream.
        track_in_reverse: the frame is reached backward in time.
        run_mem_encoder: make memory of the answer.
        prev_sam_mask_logits: an earlier answer that the points refine, `[B, 1, S / 4, S / 4]`.

    Returns:
        `point_inputs` and `mask_inputs` as they were given, `pred_masks` `[B, 1, S / 4, S / 4]`,
        `pred_masks_high_res` `[B, 1, S, S]`, `obj_ptr` `[B, C]`, `object_score_logits` `[B, 1]`
        (not in training), `maskmem_features` `[B, M, H, W]` and `maskmem_pos_enc`, a list of one
        such map (both None without the memory encoder).

    Raises:
        InputError: an earlier answer without points to refine it by.
        StateError: no conditioning frame is remembered.
    """
    *high_res, pix_feat = _maps(current_vision_feats, feat_sizes)
    if mask_inputs is not None and model.use_mask_input_as_output_without_sam:
        heads = model._use_mask_as_output(pix_feat, high_res or None, mask_inputs)
    else:
        seen = model._prepare_memory_conditioned_features(
            frame_idx=frame_idx,
            is_init_cond_frame=is_init_cond_frame,
            current_vision_feats=current_vision_feats[-1:],
            current_vision_pos_embeds=current_vision_pos_embeds[-1:],
            feat_sizes=feat_sizes[-1:],
            output_dict=output_dict,
            num_frames=num_frames,
            track_in_reverse=track_in_reverse,
        )
        prompt = mask_inputs
        if prev_sam_mask_logits is not None:
            if point_inputs is None or mask_inputs is not None:
                raise InputError("prev_sam_mask_logits needs point_inputs, and no mask_inputs")
            prompt = prev_sam_mask_logits
        heads = model._forward_sam_heads(
            backbone_features=seen,
            point_inputs=point_inputs,
            mask_inputs=prompt,
            high_res_features=high_res or None,
            multimask_output=model._use_multimask(is_init_cond_frame, point_inputs),
        )
    _, _, _, low_res_masks, high_res_masks, obj_ptr, object_score_logits = heads
    memory: tuple[Tensor | None, list[Tensor] | None] = (None, None)
    if run_mem_encoder and model.num_maskmem > 0:
        memory = model._encode_new_memory(
            current_vision_feats=current_vision_feats,
            feat_sizes=feat_sizes,
            pred_masks_high_res=high_res_masks,
            object_score_logits=object_score_logits,
            is_mask_from_pts=point_inputs is not None,
        )
    # Where it is not used, training would wait for its gradient.
    presence = {} if model.training else {"object_score_logits": object_score_logits}
    return {
        "point_inputs": point_inputs,
        "mask_inputs": mask_inputs,
        "pred_masks": low_res_masks,
        "pred_masks_high_res": high_res_masks,
        "obj_ptr": obj_ptr,
        **presence,
        "maskmem_features": memory[0],
        "maskmem_pos_enc": memory[1],
    }


def prepare_memory_conditioned_features(
    model: SAM2Base,
    frame_idx: int,
    is_init_cond_frame: bool,
    current_vision_feats: Sequence[Tensor],
    current_vision_pos_embeds: Sequence[Tensor],
    feat_sizes: Sequence[tuple[int, int]],
    output_dict: Mapping[str, Mapping[int, Mapping[str, Any]]],
    num_frames: int | None,
    track_in_reverse: bool = False,
) -> Tensor:
    """A frame's features as its objects see them, `[B, C, H, W]`; arguments as `track_step`."""
    pix_feat = _maps(current_vision_feats, feat_sizes)[-1]
    rules = SelectionRules.of(model)
    if rules.num_maskmem == 0:
        return pix_feat
    pix_pos = _maps(current_vision_pos_embeds, feat_sizes)[-1]
    if is_init_cond_frame:
        return model.without_memory(pix_feat, pix_pos)
    if not output_dict["cond_frame_outputs"]:
        raise StateError(f"frame {frame_idx} has no conditioning frame to read: prompt one first")
    selection = select_memory(
        frame_idx,
        output_dict["cond_frame_outputs"],
        output_dict["non_cond_frame_outputs"],
        rules,
        num_frames=num_frames,
        reverse=track_in_reverse,
    )
    return model.attend_to_memory(pix_feat, pix_pos, *memory_tokens(model, selection))


def forward_sam_heads(
    model: SAM2Base,
    backbone_features: Tensor,
    point_inputs: Mapping[str, Tensor] | None = None,
    mask_inputs: Tensor | None = None,
    high_res_features: list[Tensor] | None = None,
    multimask_output: bool = False,
) -> Heads:
    """Prompt encoder and mask decoder; arguments as `SAM2Base.decode_masks`."""
    points = None
    if point_inputs is not None:
        points = (point_inputs["point_coords"], point_inputs["point_labels"])
    decoded = model.decode_all_masks(
        backbone_features, high_res_features, points, mask_inputs, multimask_output
    )
    found = model.choose_mask(*decoded, multimask_output)
    best = model.upsample_masks(found.low_res_masks)
    every = model.upsample_masks(decoded[0]) if multimask_output else best
    return _heads(decoded[0], every, best, found)


def use_mask_as_output(
    model: SAM2Base,
    backbone_features: Tensor,
    high_res_features: list[Tensor] | None,
    mask_inputs: Tensor,
) -> Heads:
    """Masks `[B, 1, S, S]` for the answer; see `SAM2Base.mask_as_output`."""
    found = model.mask_as_output(backbone_features, high_res_features, mask_inputs)
    high_res = logits_of_mask(at_least_float32(mask_inputs))
    return _heads(found.low_res_masks, high_res, high_res, found)


def encode_new_memory(
    model: SAM2Base,
    current_vision_feats: Sequence[Tensor],
    feat_sizes: Sequence[tuple[int, int]],
    pred_masks_high_res: Tensor,
    object_score_logits: Tensor,
    is_mask_from_pts: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Memory `[B, M, H, W]` and its positions; see `SAM2Base.encode_memory`."""
    pix_feat = _maps(current_vision_feats[-1:], feat_sizes[-1:])[0]
    return model.encode_memory(pix_feat, pred_masks_high_res, object_score_logits, is_mask_from_pts)


def _heads(low_res: Tensor, high_res: Tensor, best_high_res: Tensor, found: MaskOutput) -> Heads:
    return (
        low_res,
        high_res,
        found.ious,
        found.low_res_masks,
        best_high_res,
        found.obj_ptr,
        found.object_score_logits,
    )


def _maps(levels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Levels `[H * W, B, C]` as maps `[B, C, H, W]`."""
    return [x.permute(1, 2, 0).unflatten(2, size) for x, size in zip(levels, sizes, strict=True)]
