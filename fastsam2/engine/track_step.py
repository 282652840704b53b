"""The tracking step: segment a batch of objects on a frame and encode their memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastsam2.engine.block_tables import BlockTables, TableShape, block_tables
from fastsam2.engine.fused.fast_path import FastPath
from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.engine.fused.mask_decoder import DecodedMasks, FusedMaskDecoder
from fastsam2.engine.fused.memory_attention import FusedMemoryAttention
from fastsam2.engine.fused.memory_encoder import FusedMemoryEncoder
from fastsam2.engine.memory_pool import MemoryPool, Pages, Slot
from fastsam2.engine.postprocess import fill_holes
from fastsam2.engine.runtime.cuda_graphs import Graphed
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.engine.runtime.pytree import StaticInputs, map_tensors
from fastsam2.engine.runtime.runner import Runner
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.types import FrameOutput, PointPrompt

__all__ = [
    "Grid",
    "Prompt",
    "TrackStep",
    "Tracked",
    "cleaned",
    "encode_memory",
    "segment_prompt",
    "track_objects",
    "track_step",
]

Selection = MemorySelection[FrameOutput]


@dataclass(frozen=True)
class Prompt:
    """Prompt for one object on a frame."""

    points: PointPrompt | None = None
    mask: Tensor | None = None  #: binary mask `[1, 1, S, S]`
    #: earlier mask logits `[1, 1, S / 4, S / 4]`, which points refine
    previous_logits: Tensor | None = None
    #: True if the object is prompted before it was tracked
    is_init_cond_frame: bool = False


@dataclass(frozen=True)
class Grid(StaticInputs):
    """Positions on the grid of a frame's features, constants of a model."""

    rope: tuple[Tensor, Tensor]  #: rotary tables
    image_offsets: tuple[Tensor, ...]  #: projected positions for the mask decoder


class Tracked(NamedTuple):
    """Tracking results of N objects on a frame."""

    masks: DecodedMasks
    slots: list[Slot]  #: slot of each object's memory map
    pointer_slots: list[Slot]  #: slot of each object's pointer


class TrackStep:
    """Memory attention, mask decoder and memory encoder for N objects without a prompt.

    Args:
        model: the model, or a copy of it in the caller's autocast dtype.
        attention, decoder, encoder: its fused parts.
        runner: compiles or records the step.
    """

    def __init__(
        self,
        model: SAM2Base,
        attention: FusedMemoryAttention,
        decoder: FusedMaskDecoder,
        encoder: FusedMemoryEncoder,
        runner: Runner,
    ) -> None:
        self.model = model
        self.attention = attention
        self.decoder = decoder
        self.encoder = encoder
        self._prepared = runner.prepare("step", self)

    @classmethod
    def of(cls, model: SAM2Base, runner: Runner) -> TrackStep | None:
        """Fuse the parts of `model`; None if its configuration excludes that."""
        if model.num_maskmem == 0:
            return None
        attention = FusedMemoryAttention.of(model)
        decoder = FusedMaskDecoder.of(model)
        encoder = FusedMemoryEncoder.of(model)
        if attention is None or decoder is None or encoder is None:
            return None
        return cls(model, attention, decoder, encoder, runner)

    @property
    def run(self) -> Callable[[FrameFeatures, Grid, Pages, BlockTables], DecodedMasks]:
        """The step as the plan says: compiled, recorded, or as it is."""
        return self if self._prepared is None else self._prepared

    def grid(self, features: FrameFeatures) -> Grid:
        """Return the positions of the features' grid."""
        return Grid(self.attention.rope(features.pix_feat), self.decoder.image_offsets())

    def memory_positions(self, features: FrameFeatures) -> list[Tensor]:
        """Return the positions of memory maps, a list of one map `[1, M, H, W]`."""
        return [self.model.memory_encoder.position_encoding(features.pix_feat[:, :1])]

    def __call__(
        self, features: FrameFeatures, grid: Grid, pages: Pages, tables: BlockTables
    ) -> DecodedMasks:
        """Segment N objects and write their memory into their slots."""
        conditioned = self.attention(features.pix_feat, features.pix_pos, grid.rope, pages, tables)
        out = self.decoder(conditioned, grid.image_offsets, features.high_res)
        memory = self.encoder(
            features.pix_feat, out.low_res_masks, out.object_score_logits, is_mask_from_pts=False
        )
        for slots, index, rows in (
            (pages.latents, tables.write_slots, memory),
            (pages.pointers, tables.write_pointer_slots, out.obj_ptr),
        ):
            slots.index_copy_(0, index.long(), rows.to(slots.dtype))
        return cleaned(self.model, out)


def cleaned(model: SAM2Base, masks: DecodedMasks) -> DecodedMasks:
    """Fill holes of the masks; logits computed in half precision are stored in it."""
    logits = masks.low_res_masks
    if model.fill_hole_area > 0:
        logits = fill_holes(logits, model.fill_hole_area)
    if masks.obj_ptr.dtype in (torch.bfloat16, torch.float16):
        logits = logits.half()
    # Earlier versions of PyTorch compile neither `_replace` nor slices of a named tuple.
    return DecodedMasks(logits, masks.ious, masks.obj_ptr, masks.object_score_logits)


#: Looks up the tracking step of a model; None where its own `track_step` must run.
track_step = FastPath(
    "track_step",
    TrackStep.of,
    parts=[
        "memory_attention",
        "memory_encoder",
        "sam_prompt_encoder",
        "sam_mask_decoder",
        "mask_downsample",
        "obj_ptr_proj",
        "obj_ptr_tpos_proj",
    ],
    methods=[
        "_get_image_feature",
        "_prepare_backbone_features",
        "track_step",
        "_prepare_memory_conditioned_features",
        "_forward_sam_heads",
        "_use_mask_as_output",
        "_encode_new_memory",
        "_use_multimask",
    ],
    parameters=[
        "maskmem_tpos_enc",
        "no_mem_embed",
        "no_mem_pos_enc",
        "no_obj_ptr",
        "no_obj_embed_spatial",
    ],
    options=[
        "num_maskmem",
        "sigmoid_scale_for_mem_enc",
        "sigmoid_bias_for_mem_enc",
        "pred_obj_scores",
        "fixed_no_obj_ptr",
        "soft_no_obj_ptr",
        "add_tpos_enc_to_obj_ptrs",
        "proj_tpos_enc_in_obj_ptrs",
        "multimask_output_in_sam",
        "multimask_output_for_tracking",
        "multimask_min_pt_num",
        "multimask_max_pt_num",
        "fill_hole_area",
    ],
)


def track_objects(
    step: TrackStep, pool: MemoryPool, features: FrameFeatures, selections: Sequence[Selection]
) -> Tracked:
    """Segment all objects that have no prompt on a frame, in one batch.

    If the device runs out of memory, the batch is halved until it fits.

    Args:
        pool: memory is read from it and written into it.
        selections: the memories that each object reads.

    Raises:
        torch.OutOfMemoryError: one object alone does not fit.
    """
    objects = len(selections)
    shape = TableShape.exact(selections)
    if isinstance(step.run, Graphed):
        shape = shape.rounded()
    try:
        with without_autocast(step.model.device):
            slots = pool.latents.allocate(objects), pool.pointers.allocate(objects)
            pages, tables = block_tables(step.model, pool, selections, shape, slots)
            masks = step.run(features, step.grid(features), pages, tables)
        return Tracked(map_tensors(masks, lambda x: x[:objects]), *slots)
    except torch.OutOfMemoryError:
        if objects == 1:
            raise
    # Outside the handler, which would keep the failed attempt's tensors alive.
    slots = [], []
    half = objects // 2
    first = track_objects(step, pool, features, selections[:half])
    second = track_objects(step, pool, features, selections[half:])
    joined = DecodedMasks(*map(torch.cat, zip(first.masks, second.masks, strict=True)))
    pointer_slots = first.pointer_slots + second.pointer_slots
    return Tracked(joined, first.slots + second.slots, pointer_slots)


def segment_prompt(
    step: TrackStep,
    pool: MemoryPool,
    features: FrameFeatures,
    selection: Selection | None,
    prompt: Prompt,
) -> DecodedMasks:
    """Segment a prompted object.

    Args:
        selection: the memories that it reads; None if it is prompted before it was tracked.
    """
    model = step.model
    with without_autocast(model.device):
        if prompt.mask is not None and model.use_mask_input_as_output_without_sam:
            heads = model._use_mask_as_output(features.pix_feat, features.high_res, prompt.mask)
        else:
            heads = model._forward_sam_heads(
                _condition(step, pool, features, selection),
                prompt.points,
                prompt.mask if prompt.previous_logits is None else prompt.previous_logits,
                features.high_res,
                model._use_multimask(prompt.is_init_cond_frame, prompt.points),
            )
    _, _, ious, masks, _, obj_ptr, object_score_logits = heads
    return cleaned(model, DecodedMasks(masks, ious, obj_ptr, object_score_logits))


def _condition(
    step: TrackStep, pool: MemoryPool, features: FrameFeatures, selection: Selection | None
) -> Tensor:
    """Condition a frame's features on one object's memory; returns `[1, C, H, W]`."""
    pix_feat, pix_pos = features.pix_feat, features.pix_pos
    if selection is not None:
        pages, tables = block_tables(step.model, pool, [selection])
        return step.attention(pix_feat, pix_pos, step.grid(features).rope, pages, tables)
    return step.model._prepare_memory_conditioned_features(
        frame_idx=0,
        is_init_cond_frame=True,
        current_vision_feats=[pix_feat.flatten(2).permute(2, 0, 1)],
        current_vision_pos_embeds=[pix_pos.flatten(2).permute(2, 0, 1)],
        feat_sizes=[(pix_feat.shape[-2], pix_feat.shape[-1])],
        output_dict={},
        num_frames=None,
    )


def encode_memory(
    step: TrackStep,
    pool: MemoryPool,
    features: FrameFeatures,
    low_res_masks: Tensor,
    object_score_logits: Tensor,
) -> list[Slot]:
    """Encode the prompted masks of N objects on a frame into memory.

    Args:
        low_res_masks: mask logits `[N, 1, S / 4, S / 4]`.
        object_score_logits: presence logits `[N, 1]`.

    Returns:
        The slot of each object's memory.
    """
    with without_autocast(step.model.device):
        memory = step.encoder(
            features.pix_feat, low_res_masks, object_score_logits, is_mask_from_pts=True
        )
        slots = pool.latents.allocate(len(memory))
        pool.latents.write(slots, memory)
    return slots
