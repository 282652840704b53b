"""Selection of the memories that a frame reads.

As in SAM 2 (arXiv 2408.00714, section 4): all conditioning frames (or the closest ones), the last
`num_maskmem - 1` other frames, and the object pointers of up to `max_obj_ptrs` frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from torch import Tensor

from fastsam2.modeling.sam2_utils import select_closest_cond_frames

__all__ = ["MemorySelection", "SelectionRules", "select_memory"]

Output = TypeVar("Output", bound=Mapping[str, Any])


@dataclass(frozen=True)
class SelectionRules:
    """Options of a model that decide which memories are read."""

    num_maskmem: int
    max_cond_frames: int
    temporal_stride: int
    use_obj_ptrs: bool
    max_obj_ptrs: int
    signed_ptr_distance: bool
    only_past_ptrs: bool

    @property
    def memory_reach(self) -> int:
        """Distance in frames of the farthest tracked frame whose memory map is read."""
        return 1 + (self.num_maskmem - 2) * self.temporal_stride if self.num_maskmem > 1 else 0

    @property
    def reach(self) -> int:
        """Distance in frames of the farthest tracked frame that is read, by map or pointer."""
        return max(self.memory_reach, self.max_obj_ptrs - 1 if self.use_obj_ptrs else 0)


@dataclass(frozen=True)
class MemorySelection(Generic[Output]):
    """Memories that one frame reads of an object, or of several that were encoded together."""

    frames: list[tuple[int, Output]]
    """Temporal position and output of each frame; the position is 0 for conditioning frames,
    otherwise `num_maskmem - distance`, 1 being the farthest."""
    pointers: list[tuple[int, Tensor]]
    """Distance in frames and value `[B, C]` of each object pointer."""
    pointer_span: int
    """Distance in frames that is encoded as 1."""


def select_memory(
    frame_idx: int,
    cond_frame_outputs: Mapping[int, Output],
    non_cond_frame_outputs: Mapping[int, Output],
    rules: SelectionRules,
    *,
    num_frames: int | None,
    reverse: bool,
) -> MemorySelection[Output]:
    """Select the memories that `frame_idx` reads.

    Args:
        cond_frame_outputs: outputs of prompted frames.
        non_cond_frame_outputs: outputs of other frames.
        num_frames: length of the video, None for a stream. In a video shorter than
            `max_obj_ptrs` frames pointer distances are measured by its length.
        reverse: tracking runs backward in time.
    """
    chosen, others = select_closest_cond_frames(
        frame_idx, cond_frame_outputs, rules.max_cond_frames
    )

    read = non_cond_frame_outputs.get
    if others:
        read = {**others, **non_cond_frame_outputs}.get
    frames = [(0, output) for output in chosen.values()]
    frames += [
        (position, output)
        for position, t in _memory_frames(frame_idx, rules, reverse)
        if (output := read(t)) is not None
    ]
    max_ptrs = min(num_frames or rules.max_obj_ptrs, rules.max_obj_ptrs)
    pointers: list[tuple[int, Tensor]] = []
    if rules.use_obj_ptrs:
        sign = -1 if reverse else 1
        for t, output in chosen.items():
            distance = (frame_idx - t) * sign
            if distance >= 0 or not rules.only_past_ptrs:
                shown = distance if rules.signed_ptr_distance else abs(distance)
                pointers.append((shown, output["obj_ptr"]))
        pointers += [
            (distance, output["obj_ptr"])
            for distance, t in _pointer_frames(frame_idx, max_ptrs, num_frames, reverse)
            if (output := read(t)) is not None
        ]
    return MemorySelection(frames, pointers, pointer_span=max(max_ptrs - 1, 1))


# The same for all objects of a frame.
@lru_cache
def _pointer_frames(
    frame_idx: int, max_ptrs: int, num_frames: int | None, reverse: bool
) -> list[tuple[int, int]]:
    """Return distance and frame of each unprompted pointer, nearest first."""
    sign = -1 if reverse else 1
    found = [(distance, frame_idx - sign * distance) for distance in range(1, max_ptrs)]
    return [(d, t) for d, t in found if t >= 0 and (num_frames is None or t < num_frames)]


@lru_cache
def _memory_frames(frame_idx: int, rules: SelectionRules, reverse: bool) -> list[tuple[int, int]]:
    """Return temporal position and frame of each unprompted memory, farthest first.

    The nearest neighbour is always read; those beyond it lie on multiples of the stride.
    """
    sign, stride = (-1 if reverse else 1), rules.temporal_stride
    found = []
    for position in range(1, rules.num_maskmem):
        distance = rules.num_maskmem - position
        if distance == 1:
            found.append((position, frame_idx - sign))
            continue
        # Floor division rounds away from the frame in either direction.
        nearest = sign * ((sign * (frame_idx - 2 * sign)) // stride * stride)
        found.append((position, nearest - sign * (distance - 2) * stride))
    return found
