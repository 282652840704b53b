"""Which memory of an object a frame reads.

The choice is that of SAM 2 (arXiv 2408.00714, section 4): all conditioning frames (or the closest),
the last `num_maskmem - 1` other frames, and the object pointers of up to `max_obj_ptrs` frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from fastsam2.modeling.sam2_utils import select_closest_cond_frames

if TYPE_CHECKING:
    from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["MemorySelection", "SelectionRules", "select_memory"]

Output = TypeVar("Output", bound=Mapping[str, Any])


@dataclass(frozen=True)
class SelectionRules:
    """How memories are chosen; the model's options as they stand at this moment."""

    num_maskmem: int
    max_cond_frames: int
    temporal_stride: int
    use_obj_ptrs: bool
    max_obj_ptrs: int
    signed_ptr_distance: bool
    only_past_ptrs: bool

    @classmethod
    def of(cls, model: SAM2Base) -> SelectionRules:
        return cls(
            num_maskmem=model.num_maskmem,
            max_cond_frames=model.max_cond_frames_in_attn,
            temporal_stride=1 if model.training else model.memory_temporal_stride_for_eval,
            use_obj_ptrs=model.use_obj_ptrs_in_encoder,
            max_obj_ptrs=model.max_obj_ptrs_in_encoder,
            signed_ptr_distance=model.use_signed_tpos_enc_to_obj_ptrs,
            only_past_ptrs=model.only_obj_ptrs_in_the_past_for_eval and not model.training,
        )

    @property
    def reach(self) -> int:
        """How many frames back tracked frames are read, going on from frame to frame."""
        memories = 1 + (self.num_maskmem - 2) * self.temporal_stride if self.num_maskmem > 1 else 0
        return max(memories, self.max_obj_ptrs - 1 if self.use_obj_ptrs else 0)


@dataclass(frozen=True)
class MemorySelection(Generic[Output]):
    """What one frame reads of one object, or of several that were remembered together."""

    frames: list[tuple[int, Output]]
    """Frames with their temporal position: 0 for conditioning frames, otherwise
    `num_maskmem - distance`, 1 being the farthest."""
    pointers: list[tuple[int, Tensor]]
    """Object pointers `[B, C]` with their distance in frames."""
    pointer_span: int
    """The distance that counts as one when pointer distances are encoded."""


def select_memory(
    frame_idx: int,
    cond_frame_outputs: Mapping[int, Output],
    non_cond_frame_outputs: Mapping[int, Output],
    rules: SelectionRules,
    *,
    num_frames: int | None,
    reverse: bool,
) -> MemorySelection[Output]:
    """What `frame_idx` reads.

    Args:
        cond_frame_outputs: what is remembered of prompted frames.
        non_cond_frame_outputs: and of others.
        num_frames: length of the video, None for a stream. In a video shorter than
            `max_obj_ptrs` frames pointer distances are measured by its length.
        reverse: the frame is reached backward in time.
    """
    chosen, others = select_closest_cond_frames(
        frame_idx, cond_frame_outputs, rules.max_cond_frames
    )

    def tracked(t: int) -> Output | None:
        return non_cond_frame_outputs.get(t, others.get(t))

    frames = [(0, output) for output in chosen.values()]
    for position, t in _memory_frames(frame_idx, rules, reverse):
        output = tracked(t)
        if output is not None:
            frames.append((position, output))
    max_ptrs = min(num_frames or rules.max_obj_ptrs, rules.max_obj_ptrs)
    pointers: list[tuple[int, Tensor]] = []
    if rules.use_obj_ptrs:
        sign = -1 if reverse else 1
        for t, output in chosen.items():
            distance = (frame_idx - t) * sign
            if distance >= 0 or not rules.only_past_ptrs:
                shown = distance if rules.signed_ptr_distance else abs(distance)
                pointers.append((shown, output["obj_ptr"]))
        for distance in range(1, max_ptrs):
            t = frame_idx - sign * distance
            if t < 0 or (num_frames is not None and t >= num_frames):
                break
            output = tracked(t)
            if output is not None:
                pointers.append((distance, output["obj_ptr"]))
    return MemorySelection(frames, pointers, pointer_span=max(max_ptrs - 1, 1))


def _memory_frames(
    frame_idx: int, rules: SelectionRules, reverse: bool
) -> Iterator[tuple[int, int]]:
    """Temporal position and frame of each unprompted memory, farthest first.

    The nearest neighbour is always read; those beyond it lie on multiples of the stride.
    """
    sign, stride = (-1 if reverse else 1), rules.temporal_stride
    for position in range(1, rules.num_maskmem):
        distance = rules.num_maskmem - position
        if distance == 1:
            yield position, frame_idx - sign
            continue
        # Floor division rounds away from the frame in either direction.
        nearest = sign * ((sign * (frame_idx - 2 * sign)) // stride * stride)
        yield position, nearest - sign * (distance - 2) * stride
