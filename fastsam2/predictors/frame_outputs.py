"""Conversion of decoded masks into stored outputs, and of stored outputs into results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastsam2.engine.fused.mask_decoder import DecodedMasks
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.modeling.sam2_base import NO_OBJ_SCORE
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.object_state import ObjectState
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import VideoSession
from fastsam2.types import FrameOutput

__all__ = ["current_result", "frame_outputs", "frame_result", "joined", "memory_positions"]


def frame_outputs(found: DecodedMasks, ious: Tensor | None) -> list[FrameOutput]:
    """Convert decoded masks of N objects into one output each, without memory.

    Args:
        ious: predicted IoU of each mask `[N]`; None if unknown.
    """
    masks = found.low_res_masks
    obj_ptr = found.obj_ptr
    if obj_ptr.is_inference():
        # Without a version counter, by which in-place edits of a client are detected.
        with torch.inference_mode(False):
            obj_ptr = obj_ptr.clone()
    unknown = [None] * len(masks)
    return [
        FrameOutput(None, None, *fields)
        for fields in zip(
            masks.split(1),
            obj_ptr.split(1),
            found.object_score_logits.split(1),
            unknown if ious is None else ious.split(1),
            strict=True,
        )
    ]


def memory_positions(session: VideoSession, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Return the positions of memory maps, which all outputs of a session share."""
    if "maskmem_pos_enc" not in session.constants:
        session.constants["maskmem_pos_enc"] = [x[:1].clone() for x in compute()]
    return session.constants["maskmem_pos_enc"]


def current_result(
    model: VideoModel, session: VideoSession, frame_idx: int, is_cond: bool
) -> FrameResult:
    """Collect the current outputs of all objects on a frame.

    Args:
        is_cond: use pending outputs of conditioning frames, instead of those of corrected frames.
    """
    outputs = [obj.output(frame_idx, is_cond) for obj in session.objects]
    return frame_result(
        model, session, frame_idx, session.objects, *joined(model, session, outputs)
    )


def joined(
    model: VideoModel, session: VideoSession, outputs: Sequence[FrameOutput | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mask logits, presence logits and predicted IoUs of several outputs; None counts as
    absent."""
    device = torch.device(session.device)
    blank = torch.full(
        (1, 1, *model.sam_prompt_encoder.mask_input_size), NO_OBJ_SCORE, device=device
    )
    unknown = torch.full((1, 1), torch.nan, device=device)

    def join(fields: list[Tensor], default: Tensor) -> Tensor:
        parts = [x.to(device, non_blocking=True) for x in fields] or [default[:0]]
        # Autocast cannot concatenate tensors of several dtypes.
        with without_autocast(device):
            return torch.cat(parts)

    masks, presence, ious = [], [], []
    for output in outputs:
        mask, score, iou = (
            (None, None, None)
            if output is None
            else (output.pred_masks, output.get("object_score_logits"), output.predicted_iou)
        )
        masks.append(blank if mask is None else mask)
        absent = blank[0, 0, :1, :1] if output is None else unknown
        presence.append(absent if score is None else score)
        ious.append(unknown[0] if iou is None else iou)
    return join(masks, blank), join(presence, unknown), join(ious, unknown[0])


def frame_result(
    model: VideoModel,
    session: VideoSession,
    frame_idx: int,
    objects: Sequence[ObjectState],
    masks: Tensor,
    presence: Tensor,
    ious: Tensor,
) -> FrameResult:
    """Collect the results of N objects.

    Args:
        masks: logits `[N, 1, S / 4, S / 4]`.
        presence: presence logits `[N, 1]`.
        ious: predicted IoU of each mask `[N]`.
    """
    every = len(objects) == len(session.obj_idx_to_id)
    return FrameResult(
        frame_idx,
        # The session's own list, with which clients compare.
        obj_ids=session.obj_ids if every else [obj.obj_id for obj in objects],
        low_res_masks=masks.float(),
        object_score_logits=presence[:, 0].float(),
        predicted_iou=ious.float(),
        video_size=(session.video_height, session.video_width),
        non_overlap=model.non_overlap_masks,
        impl=model.impl,
    )
