"""One frame of tracking: what a batch of objects shows on it, given what is remembered of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsam2.engine.features import FrameFeatures
from fastsam2.engine.memory_bank import MemorySelection, ObjectMemory, SelectionRules
from fastsam2.engine.memory_reader import memory_reader
from fastsam2.engine.pointers import pointer_tokens
from fastsam2.modeling.sam2_base import MaskOutput, SAM2Base
from fastsam2.types import PointPrompt

__all__ = ["ObjectInput", "StepOutput", "encode_memory", "memory_tokens", "track_frame"]


@dataclass(frozen=True)
class ObjectInput:
    """One object on the frame: its memory, and the prompt it is given there, if any."""

    memory: ObjectMemory
    points: PointPrompt | None = None
    mask: Tensor | None = None  #: binary mask `[1, 1, S, S]`
    previous_logits: Tensor | None = (
        None  #: earlier answer `[1, 1, S / 4, S / 4]`, refined by points
    )
    is_init_cond_frame: bool = False  #: prompted before it was tracked: memory is not read


@dataclass(frozen=True)
class StepOutput:
    """One object's answer, and the memory made of it if that was wanted."""

    masks: MaskOutput
    maskmem_features: Tensor | None = None
    maskmem_pos_enc: list[Tensor] | None = None


def track_frame(
    model: SAM2Base,
    features: FrameFeatures,
    frame_idx: int,
    objects: Sequence[ObjectInput],
    *,
    num_frames: int | None,
    reverse: bool,
    remember: bool,
) -> list[StepOutput]:
    """Find every object on one frame.

    Args:
        num_frames: length of the video, None for a stream.
        reverse: the frame is reached backward in time.
        remember: encode the answers into memory.
    """
    rules = SelectionRules.of(model)
    seen = _condition(model, features, frame_idx, objects, rules, num_frames, reverse)
    outputs = []
    for item, pix_feat in zip(objects, seen, strict=True):
        masks = _find_object(model, features, item, pix_feat)
        memory: tuple[Tensor | None, list[Tensor] | None] = (None, None)
        if remember and model.num_maskmem > 0:
            memory = model.encode_memory(
                features.pix_feat,
                masks.high_res_masks,
                masks.object_score_logits,
                is_mask_from_pts=item.points is not None,
            )
        outputs.append(StepOutput(masks, *memory))
    return outputs


def encode_memory(
    model: SAM2Base, features: FrameFeatures, low_res_masks: Tensor, object_score_logits: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Memory of an answered prompt: masks `[B, 1, S / 4, S / 4]` and presence logits `[B, 1]`."""
    return model.encode_memory(
        features.pix_feat,
        model.upsample_masks(low_res_masks),
        object_score_logits,
        is_mask_from_pts=True,
    )


def _condition(
    model: SAM2Base,
    features: FrameFeatures,
    frame_idx: int,
    objects: Sequence[ObjectInput],
    rules: SelectionRules,
    num_frames: int | None,
    reverse: bool,
) -> list[Tensor]:
    """The frame's features as each object sees them, `[1, C, H, W]` each."""
    pix_feat, pix_pos = features.pix_feat, features.pix_pos
    if rules.num_maskmem == 0:
        return [pix_feat] * len(objects)
    selections = {
        i: item.memory.select(frame_idx, rules, num_frames=num_frames, reverse=reverse)
        for i, item in enumerate(objects)
        if not item.is_init_cond_frame and not _answers_itself(model, item)
    }
    reader = memory_reader(model) if selections else None
    if reader is not None:
        read = reader.read(model, features, list(selections.values())).split(1)
    else:
        read = tuple(
            model.attend_to_memory(pix_feat, pix_pos, *memory_tokens(model, selection))
            for selection in selections.values()
        )
    seen = dict(zip(selections, read, strict=True))
    return [
        seen[i] if i in seen else _without_memory(model, features, item)
        for i, item in enumerate(objects)
    ]


def _without_memory(model: SAM2Base, features: FrameFeatures, item: ObjectInput) -> Tensor:
    if _answers_itself(model, item):
        return features.pix_feat
    return model.without_memory(features.pix_feat, features.pix_pos)


def _answers_itself(model: SAM2Base, item: ObjectInput) -> bool:
    """Whether the object's mask is given, not sought."""
    return item.mask is not None and model.use_mask_input_as_output_without_sam


def _find_object(
    model: SAM2Base, features: FrameFeatures, item: ObjectInput, pix_feat: Tensor
) -> MaskOutput:
    if item.mask is not None and model.use_mask_input_as_output_without_sam:
        return model.mask_as_output(pix_feat, features.high_res, item.mask)
    points, num_points = None, 0
    if item.points is not None:
        points = (item.points.point_coords, item.points.point_labels)
        num_points = item.points.point_labels.shape[1]
    return model.decode_masks(
        pix_feat,
        features.high_res,
        points=points,
        mask_prompt=item.mask if item.previous_logits is None else item.previous_logits,
        multimask_output=model._use_multimask(item.is_init_cond_frame, num_points),
    )


def memory_tokens(model: SAM2Base, selection: MemorySelection) -> tuple[Tensor, Tensor, int]:
    """Memory and its positions, `[M, B, mem_dim]` each, and how many of them are pointer tokens.

    B is 1, or as many objects as the outputs that were selected stand for.
    """
    device, dtype = model.device, model.dtype
    tokens, positions = [], []
    for t_pos, output in selection.frames:
        assert output.maskmem_features is not None
        assert output.maskmem_pos_enc is not None
        feature = output.maskmem_features.to(device, dtype, non_blocking=True)
        place = output.maskmem_pos_enc[-1].to(device, dtype, non_blocking=True)
        tokens.append(feature.flatten(2).permute(2, 0, 1))
        time = model.maskmem_tpos_enc[model.num_maskmem - t_pos - 1]
        positions.append(place.flatten(2).permute(2, 0, 1) + time)
    pointers, place = pointer_tokens(model, selection)
    if len(pointers):
        tokens.append(pointers)
        positions.append(place)
    return torch.cat(tokens), torch.cat(positions), len(pointers)
