"""One frame of tracking: what a batch of objects shows on it, given what is remembered of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastsam2.engine.block_tables import BlockTables, TableShape, block_tables
from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.engine.fused.mask_decoder import FusedMaskDecoder, object_decoder
from fastsam2.engine.fused.memory_attention import FusedMemoryAttention, memory_reader
from fastsam2.engine.fused.memory_encoder import FusedMemoryEncoder, memory_writer
from fastsam2.engine.memory_pool import MemoryPool, Pages
from fastsam2.engine.runtime.cuda_graphs import Graphed
from fastsam2.engine.runtime.pytree import StaticInputs, map_tensors
from fastsam2.engine.runtime.runner import ready
from fastsam2.modeling.mask_answers import MaskOutput
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.memory_tokens import memory_tokens
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.types import PointPrompt

__all__ = [
    "Places",
    "Prompt",
    "Tracked",
    "TrackStep",
    "answer_prompt",
    "encode_memory",
    "track_objects",
]


#: What the step asks of the model beside its weights.
_OPTIONS = (
    "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc",
    "pred_obj_scores",
    "fixed_no_obj_ptr",
    "soft_no_obj_ptr",
    "add_tpos_enc_to_obj_ptrs",
    "proj_tpos_enc_in_obj_ptrs",
)


@dataclass(frozen=True)
class Prompt:
    """What an object is told on a frame."""

    points: PointPrompt | None = None
    mask: Tensor | None = None  #: binary mask `[1, 1, S, S]`
    #: earlier answer `[1, 1, S / 4, S / 4]`, which points refine
    previous_logits: Tensor | None = None
    #: prompted before it was tracked
    is_init_cond_frame: bool = False


class Tracked(NamedTuple):
    """Answers for N objects, and the memory made of them."""

    masks: MaskOutput
    #: `[N, mem_dim, H, W]`, and its positions, a list of one map; None in a model without memory
    memory: tuple[Tensor, list[Tensor]] | None


@dataclass(frozen=True)
class Places(StaticInputs):
    """Positions on the grid of a frame's features, constants of a model."""

    rope: tuple[Tensor, Tensor]  #: rotary tables
    image_pe: Tensor  #: for the mask decoder, `[1, C, H, W]`


class TrackStep:
    """All that N objects without a prompt go through on a frame.

    Calling it is a pure function of tensors, which can be compiled whole.
    """

    def __init__(
        self,
        model: SAM2Base,
        read: FusedMemoryAttention,
        decode: FusedMaskDecoder,
        write: FusedMemoryEncoder,
    ) -> None:
        self.model, self.read, self.decode, self.write = model, read, decode, write

    @classmethod
    def of(cls, model: SAM2Base) -> TrackStep | None:
        """The step of this model; None where some of its own modules must run."""
        # One mask, and no choice by its stability, is what the decoder is not made for.
        if not model._use_multimask(is_init_cond_frame=False, point_inputs=None):
            return None
        parts = memory_reader(model), object_decoder(model), memory_writer(model)
        read, decode, write = parts
        if read is None or decode is None or write is None:
            return None
        return cls(model, read, decode, write)

    def places(self, features: FrameFeatures) -> Places:
        """What the step needs to know of the grid."""
        image_pe = self.model.sam_prompt_encoder.get_dense_pe()
        return Places(self.read.rope(features.pix_feat), image_pe)

    def __call__(
        self, features: FrameFeatures, places: Places, pages: Pages, tables: BlockTables
    ) -> tuple[MaskOutput, Tensor]:
        """Answers, and memory of them `[N, mem_dim, H, W]`."""
        pix_feat, pix_pos = features.pix_feat, features.pix_pos
        seen = self.read(self.model, pix_feat, pix_pos, places.rope, pages, tables)
        masks = self.decode(self.model, seen, places.image_pe, features.high_res)
        presence = masks.object_score_logits
        memory = _write(
            self.model, self.write, features, masks.low_res_masks, presence, is_mask_from_pts=False
        )
        return masks, memory


def track_objects(
    model: SAM2Base,
    pool: MemoryPool,
    features: FrameFeatures,
    selections: Sequence[MemorySelection | None],
) -> Tracked:
    """Find on a frame all objects that have no prompt there, in one batch.

    Where the device has no memory for that, the batch is halved until it has.

    Args:
        pool: where what they read is brought to.
        selections: what each object reads; None in a model without memory.

    Raises:
        torch.OutOfMemoryError: one object alone is too much.
    """
    try:
        return _track(model, pool, features, selections)
    except torch.OutOfMemoryError:
        if len(selections) == 1:
            raise
    # Only here is all that the attempt held let go of.
    half = len(selections) // 2
    first = track_objects(model, pool, features, selections[:half])
    second = track_objects(model, pool, features, selections[half:])
    return _join_tracked([first, second])


def _track(
    model: SAM2Base,
    pool: MemoryPool,
    features: FrameFeatures,
    selections: Sequence[MemorySelection | None],
) -> Tracked:
    read = [selection for selection in selections if selection is not None]
    step = TrackStep.of(model) if read else None
    if step is not None:
        options = tuple(getattr(model, name) for name in _OPTIONS)
        run = ready(model, "track step", step, (step.read, step.decode, step.write), options)
        room = TableShape.exact(read)
        if isinstance(run, Graphed):
            room = room.rounded()
        pages, tables = block_tables(model, pool, read, room)
        found = run(features, step.places(features), pages, tables)
        masks, memory = map_tensors(found, lambda x: x[: len(read)])
        return Tracked(masks, (memory, step.write.positions(memory)))
    # Parts that are not the package's own see one object at a time, as they would in `sam2`.
    return _join_tracked([_track_one(model, pool, features, selection) for selection in selections])


def _track_one(
    model: SAM2Base, pool: MemoryPool, features: FrameFeatures, selection: MemorySelection | None
) -> Tracked:
    if selection is None:
        return Tracked(_decode(model, features, features.pix_feat), None)
    found = _decode(model, features, _condition(model, pool, features, selection))
    memory = encode_memory(
        model, features, found.low_res_masks, found.object_score_logits, is_mask_from_pts=False
    )
    return Tracked(found, memory)


def answer_prompt(
    model: SAM2Base,
    pool: MemoryPool,
    features: FrameFeatures,
    selection: MemorySelection | None,
    prompt: Prompt,
) -> MaskOutput:
    """Find an object that is prompted.

    Args:
        selection: what it reads; None where it is prompted before it was tracked.
    """
    if prompt.mask is not None and model.use_mask_input_as_output_without_sam:
        return model.mask_as_output(features.pix_feat, features.high_res, prompt.mask)
    if selection is not None:
        seen = _condition(model, pool, features, selection)
    elif model.num_maskmem == 0:
        seen = features.pix_feat
    else:
        seen = model.without_memory(features.pix_feat, features.pix_pos)
    return _decode(model, features, seen, prompt)


def encode_memory(
    model: SAM2Base,
    features: FrameFeatures,
    low_res_masks: Tensor,
    object_score_logits: Tensor,
    *,
    is_mask_from_pts: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Memory `[N, mem_dim, H, W]` of N objects on one frame, and its positions.

    Args:
        low_res_masks: mask logits `[N, 1, S / 4, S / 4]`.
        object_score_logits: presence logits `[N, 1]`.
        is_mask_from_pts: the masks answer prompts.
    """
    write = memory_writer(model)
    if write is not None:
        memory = _write(
            model, write, features, low_res_masks, object_score_logits, is_mask_from_pts
        )
        return memory, write.positions(memory)
    return model.encode_memory(
        features.pix_feat,
        model.upsample_masks(low_res_masks),
        object_score_logits,
        is_mask_from_pts=is_mask_from_pts,
    )


def _write(
    model: SAM2Base,
    write: FusedMemoryEncoder,
    features: FrameFeatures,
    low_res_masks: Tensor,
    object_score_logits: Tensor,
    is_mask_from_pts: bool,
) -> Tensor:
    return write(
        features.pix_feat,
        low_res_masks,
        object_score_logits,
        scale=model.sigmoid_scale_for_mem_enc,
        bias=model.sigmoid_bias_for_mem_enc,
        binarize=is_mask_from_pts
        and model.binarize_mask_from_pts_for_mem_enc
        and not model.training,
    )


def _condition(
    model: SAM2Base, pool: MemoryPool, features: FrameFeatures, selection: MemorySelection
) -> Tensor:
    """The frame's features as one object sees them, `[1, C, H, W]`."""
    read = memory_reader(model)
    pix_feat, pix_pos = features.pix_feat, features.pix_pos
    if read is None:
        return model.attend_to_memory(pix_feat, pix_pos, *memory_tokens(model, selection))
    pages, tables = block_tables(model, pool, [selection])
    return read(model, pix_feat, pix_pos, read.rope(pix_feat), pages, tables)


def _decode(
    model: SAM2Base, features: FrameFeatures, pix_feat: Tensor, prompt: Prompt | None = None
) -> MaskOutput:
    """Prompt encoder and mask decoder for one object."""
    prompt = prompt or Prompt()
    points = None
    if prompt.points is not None:
        points = (prompt.points.point_coords, prompt.points.point_labels)
    return model.decode_masks(
        pix_feat,
        features.high_res,
        points=points,
        mask_prompt=prompt.mask if prompt.previous_logits is None else prompt.previous_logits,
        multimask_output=model._use_multimask(prompt.is_init_cond_frame, prompt.points),
    )


def _join_tracked(parts: Sequence[Tracked]) -> Tracked:
    masks = MaskOutput(*(torch.cat(x) for x in zip(*(part.masks for part in parts), strict=True)))
    memories = [part.memory for part in parts if part.memory is not None]
    if not memories:
        return Tracked(masks, None)
    return Tracked(masks, (torch.cat([memory for memory, _ in memories]), memories[0][1]))
