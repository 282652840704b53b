"""What a session has of a frame: its features, the answers on it, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fastsam2.engine.feature_cache import Encoded, encode_together
from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.engine.postprocess import fill_holes
from fastsam2.engine.runtime.autocast import in_callers_precision
from fastsam2.modeling.mask_answers import NO_OBJ_SCORE, MaskOutput
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import ObjectState, VideoSession
from fastsam2.types import FrameOutput

__all__ = [
    "encode_frames",
    "encoded_frame",
    "frame_outputs",
    "image_features",
    "store_memory",
    "result_of",
    "shown",
]


def image_features(
    model: VideoModel, session: VideoSession, frame_idx: int, then: Sequence[int] = ()
) -> FrameFeatures:
    """Features of a frame, after which the frames `then` will be asked for."""
    return FrameFeatures.of(model, encoded_frame(model, session, frame_idx, then)[1])


def encoded_frame(
    model: VideoModel, session: VideoSession, frame_idx: int, then: Sequence[int] = ()
) -> tuple[Tensor, dict[str, Any]]:
    """The image of a frame `[1, 3, S, S]`, and what the image encoder makes of it."""
    cached = session.cached_features.get(frame_idx)
    if cached is None:
        stage = session.features
        # A client may have put other frames in the place of those that were opened.
        if stage is not None and stage.frames is session.images:
            cached = stage.get(model, frame_idx, then)
        else:
            cached = Encoded.of(model, session.images[frame_idx])
        session.cached_features = {frame_idx: cached}
    return cached


@in_callers_precision
def encode_frames(model: VideoModel, wanted: Sequence[tuple[VideoSession, int]]) -> None:
    """Encode frames of several sessions in one batch, ahead of tracking them.

    What cannot be read or is too much for the device is left until it is asked for.
    """
    stages = [
        (session.features, frame_idx)
        for session, frame_idx in wanted
        if session.features is not None and session.features.frames is session.images
    ]
    with suppress(Exception):
        encode_together(model, stages)


def frame_outputs(
    model: VideoModel,
    session: VideoSession,
    found: MaskOutput,
    memory: tuple[Tensor, list[Tensor]] | None = None,
) -> list[FrameOutput]:
    """What is kept of the answers for N objects, one for each."""
    masks = found.low_res_masks
    if model.fill_hole_area > 0:
        masks = fill_holes(masks, model.fill_hole_area)
    if model.dtype != torch.float32:
        masks = masks.half()  # which holds what a model of half precision says
    masks = masks.to(session.storage_device)
    # An inference tensor would not tell the pool when a client edits it in place.
    with torch.inference_mode(False):
        obj_ptr = found.obj_ptr.clone()
    outputs = [
        FrameOutput(None, None, *kept)
        for kept in zip(
            masks.split(1),
            obj_ptr.split(1),
            found.object_score_logits.split(1),
            # The mask was chosen by it, or is the only one.
            found.ious.amax(1).split(1),
            strict=True,
        )
    ]
    if memory is not None:
        store_memory(model, session, outputs, *memory)
    return outputs


def store_memory(
    model: VideoModel,
    session: VideoSession,
    outputs: Sequence[FrameOutput],
    memory: Tensor,
    pos_enc: list[Tensor],
) -> None:
    with torch.inference_mode(False):
        device, dtype = session.storage_device, model.memory_dtype
        stored = memory.to(device, dtype, copy=True)
    # The same for every frame and object: one copy serves all.
    if "maskmem_pos_enc" not in session.constants:
        session.constants["maskmem_pos_enc"] = [place[:1].clone() for place in pos_enc]
    for output, features in zip(outputs, stored.split(1), strict=True):
        output.maskmem_features = features
        output.maskmem_pos_enc = session.constants["maskmem_pos_enc"]


def shown(model: VideoModel, session: VideoSession, frame_idx: int, is_cond: bool) -> FrameResult:
    """All objects as they stand on a frame.

    `is_cond` chooses which pending answers count: those of conditioning frames or those of
    corrected ones.
    """
    outputs = [obj.output(frame_idx, is_cond) for obj in session.objects]
    return result_of(model, session, frame_idx, session.objects, outputs)


def result_of(
    model: VideoModel,
    session: VideoSession,
    frame_idx: int,
    objects: Sequence[ObjectState],
    outputs: Sequence[FrameOutput | None],
) -> FrameResult:
    """Outputs of the objects; one that has none is absent."""
    device = session.device
    nothing = torch.full(
        (1, 1, *model.sam_prompt_encoder.mask_input_size), NO_OBJ_SCORE, device=device
    )
    unknown = torch.full((1,), torch.nan, device=device)

    def joined(found: list[Tensor], default: Tensor) -> Tensor:
        # In one piece first: a hundred objects are a hundred of everything else.
        return torch.cat([x.to(device, non_blocking=True) for x in found] or [default[:0]]).float()

    masks, presence, ious = [], [], []
    for output in outputs:
        if output is None:
            masks.append(nothing)
            presence.append(nothing[0, 0, :1, :1])
            ious.append(unknown)
            continue
        masks.append(output.pred_masks)
        # Clients that make an output themselves may leave out what is not read.
        score, iou = output.object_score_logits, output.predicted_iou
        presence.append(unknown[None] if score is None else score)
        ious.append(unknown if iou is None else iou)
    every = list(objects) == session.objects
    return FrameResult(
        frame_idx,
        # The session's own list, which clients compare with what the session says.
        obj_ids=session.obj_ids if every else [obj.obj_id for obj in objects],
        low_res_masks=joined(masks, nothing),
        object_score_logits=joined(presence, unknown[None])[:, 0],
        predicted_iou=joined(ious, unknown),
        video_size=(session.video_height, session.video_width),
        non_overlap=model.non_overlap_masks,
        impl=model.impl,
    )
