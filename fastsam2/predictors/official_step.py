"""A frame through the model's own methods, one object at a time, as `sam2` runs it.

So it runs where a part of the model is not the package's own, in training, or under grad.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2.engine.fused.mask_decoder import DecodedMasks
from fastsam2.engine.track_step import Prompt, cleaned
from fastsam2.predictors.frame_outputs import frame_outputs, memory_positions
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.object_state import ObjectState
from fastsam2.predictors.session import VideoSession
from fastsam2.types import FrameOutput

__all__ = ["encode_officially", "track_officially"]


def track_officially(
    model: VideoModel,
    session: VideoSession,
    obj: ObjectState,
    frame_idx: int,
    prompt: Prompt,
    reverse: bool,
    run_mem_encoder: bool = False,
) -> FrameOutput:
    """Segment one object through the model's own `_get_image_feature` and `track_step`."""
    _, _, features, positions, sizes = model._get_image_feature(
        session.inference_state, frame_idx, 1
    )
    out = model.track_step(
        frame_idx=frame_idx,
        is_init_cond_frame=prompt.is_init_cond_frame,
        current_vision_feats=features,
        current_vision_pos_embeds=positions,
        feat_sizes=sizes,
        point_inputs=prompt.points,
        mask_inputs=prompt.mask,
        output_dict=obj.memory,
        num_frames=session.num_frames,
        track_in_reverse=reverse,
        run_mem_encoder=run_mem_encoder,
        prev_sam_mask_logits=prompt.previous_logits,
    )
    masks = DecodedMasks(
        out["pred_masks"], out["pred_masks"], out["obj_ptr"], out["object_score_logits"]
    )
    masks = cleaned(model, masks)
    masks = masks._replace(low_res_masks=masks.low_res_masks.to(session.storage_device))
    (output,) = frame_outputs(masks, None)
    _store_memory(model, session, output, out["maskmem_features"], out["maskmem_pos_enc"])
    return output


def encode_officially(
    model: VideoModel, session: VideoSession, frame_idx: int, output: FrameOutput
) -> None:
    """Encode memory of a prompted output through the model's own `_encode_new_memory`."""
    _, _, features, _, sizes = model._get_image_feature(session.inference_state, frame_idx, 1)
    assert output.pred_masks is not None
    memory = model._encode_new_memory(
        current_vision_feats=features,
        feat_sizes=sizes,
        pred_masks_high_res=model._upsample_masks(output.pred_masks.to(session.device).float()),
        object_score_logits=output.object_score_logits,
        is_mask_from_pts=True,
    )
    _store_memory(model, session, output, *memory)


def _store_memory(
    model: VideoModel,
    session: VideoSession,
    output: FrameOutput,
    memory: Tensor | None,
    positions: list[Tensor] | None,
) -> None:
    """Store memory returned by the model's own methods."""
    if memory is None or positions is None:
        return
    # Inference tensors have no version counter, by which in-place edits of a client are detected.
    with torch.inference_mode(False):
        stored = memory.to(session.storage_device, model.memory_dtype, copy=True)
    output.maskmem_features = stored
    output.maskmem_pos_enc = memory_positions(session, lambda: positions)
