"""One frame of tracking: what a batch of objects shows on it, given what is remembered of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsam2.engine.features import FrameFeatures
from fastsam2.engine.memory_bank import MemorySelection, ObjectMemory, SelectionRules
from fastsam2.modeling.sam2_base import MaskOutput, SAM2Base
from fastsam2.modeling.sam2_utils import get_1d_sine_pe
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
    outputs = []
    for item in objects:
        masks = _find_object(model, features, frame_idx, item, rules, num_frames, reverse)
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


def _find_object(
    model: SAM2Base,
    features: FrameFeatures,
    frame_idx: int,
    item: ObjectInput,
    rules: SelectionRules,
    num_frames: int | None,
    reverse: bool,
) -> MaskOutput:
    if item.mask is not None and model.use_mask_input_as_output_without_sam:
        return model.mask_as_output(features.pix_feat, features.high_res, item.mask)
    if rules.num_maskmem == 0:
        pix_feat = features.pix_feat
    elif item.is_init_cond_frame:
        pix_feat = model.without_memory(features.pix_feat, features.pix_pos)
    else:
        selection = item.memory.select(frame_idx, rules, num_frames=num_frames, reverse=reverse)
        memory = memory_tokens(model, selection)
        pix_feat = model.attend_to_memory(features.pix_feat, features.pix_pos, *memory)
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
    if not selection.pointers:
        return torch.cat(tokens), torch.cat(positions), 0
    distances, pointers = zip(*selection.pointers, strict=True)
    # A pointer is as wide as several memory tokens: cut it into that many.
    per_pointer = model.hidden_dim // model.mem_dim
    pointer_tokens = torch.stack(pointers).to(device, dtype)
    pointer_tokens = pointer_tokens.unflatten(-1, (per_pointer, model.mem_dim)).transpose(1, 2)
    pointer_tokens = pointer_tokens.flatten(0, 1)
    place = _pointer_positions(model, distances, selection.pointer_span)
    place = place.repeat_interleave(per_pointer, dim=0).unsqueeze(1)
    tokens.append(pointer_tokens)
    positions.append(place.expand_as(pointer_tokens))
    return torch.cat(tokens), torch.cat(positions), len(pointer_tokens)


def _pointer_positions(model: SAM2Base, distances: Sequence[int], span: int) -> Tensor:
    """Codes `[n, mem_dim]` of how far away each pointer's frame is."""
    device, dtype = model.device, model.dtype
    if not model.add_tpos_enc_to_obj_ptrs:
        return torch.zeros(len(distances), model.mem_dim, device=device, dtype=dtype)
    width = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
    distance = torch.tensor(distances, dtype=torch.float32, device=device)
    return model.obj_ptr_tpos_proj(get_1d_sine_pe(distance / span, width).to(dtype))
