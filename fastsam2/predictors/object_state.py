"""Prompts and memory of one object, as an inference state holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from torch import Tensor

from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.types import FrameOutput, PointPrompt, Prompts

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ObjectState"]

T = TypeVar("T")


class _Part(Generic[T]):
    """Attribute of an object, stored by the object's index under `key` of the state.

    Args:
        key: key of the state.
        kind: class of the part; a client's dict is replaced by one of this class when it is read.
    """

    def __init__(self, key: str, kind: Callable[[], T]) -> None:
        self.key = key
        self.kind = kind

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: ObjectState, owner: type) -> T: ...
    def __get__(self, obj: ObjectState | None, owner: type) -> Any:
        if obj is None:
            return self
        parts = obj.state[self.key]
        found = parts[obj.index]
        kind: Any = self.kind
        if kind is not dict and not isinstance(found, kind):
            found = parts[obj.index] = kind.of(found)
        return found


class ObjectState:
    """Prompts and memory of one object, which are in the session's state.

    Args:
        obj_id: id of the object.
        state: has all parts, each by the index of the object.
        index: index of the object.
    """

    point_inputs = _Part("point_inputs_per_obj", Prompts)
    mask_inputs = _Part[dict[int, Tensor]]("mask_inputs_per_obj", dict)
    memory = _Part("output_dict_per_obj", ObjectMemory)
    pending = _Part("temp_output_dict_per_obj", ObjectMemory)
    """Outputs of prompts since the last propagation, not yet encoded into memory."""
    frames_tracked = _Part[dict[int, dict[str, bool]]]("frames_tracked_per_obj", dict)
    """`{"reverse": ...}` for each frame that propagation has passed, in that order."""
    PARTS: ClassVar[tuple[_Part[Any], ...]] = (
        point_inputs,
        mask_inputs,
        memory,
        pending,
        frames_tracked,
    )

    def __init__(self, obj_id: Any, state: Mapping[str, Any], index: int) -> None:
        self.obj_id = obj_id
        self.state = state
        self.index = index

    @classmethod
    def new(cls, obj_id: Any) -> ObjectState:
        """Return an object that is in no session yet."""
        return cls(obj_id, {part.key: {0: part.kind()} for part in cls.PARTS}, 0)

    def output(self, frame_idx: int, is_cond: bool) -> FrameOutput | None:
        """Return the newest output on a frame: a pending one of this kind, else the one in
        memory."""
        kind = "cond_frame_outputs" if is_cond else "non_cond_frame_outputs"
        found = self.pending[kind].get(frame_idx)
        return self.memory.output(frame_idx) if found is None else found

    def keep_prompt(self, frame_idx: int, points: PointPrompt | None, mask: Tensor | None) -> None:
        """Replace the prompt on a frame by points or a mask."""
        self.drop_prompt(frame_idx)
        if points is not None:
            self.point_inputs[frame_idx] = points
        if mask is not None:
            self.mask_inputs[frame_idx] = mask

    def drop_prompt(self, frame_idx: int) -> None:
        """Remove the prompt on a frame, if there is one."""
        self.point_inputs.pop(frame_idx, None)
        self.mask_inputs.pop(frame_idx, None)

    def clear(self) -> None:
        """Remove all prompts and outputs, also from containers that a program holds."""
        for outputs in (*self.memory.values(), *self.pending.values()):
            outputs.clear()
        for records in (self.point_inputs, self.mask_inputs, self.frames_tracked):
            records.clear()

    def prompted_frames(self) -> set[int]:
        return self.point_inputs.keys() | self.mask_inputs.keys()

    def mark_tracked(self, frame_idx: int, reverse: bool) -> None:
        """Record that propagation has passed a frame."""
        self.frames_tracked.pop(frame_idx, None)
        self.frames_tracked[frame_idx] = {"reverse": reverse}

    def passed(self, steps: int) -> int | None:
        """Return the frame that propagation passed `steps` frames before the last one."""
        return next(islice(reversed(self.frames_tracked), steps, None), None)

    def tracked_output(self, steps: int) -> FrameOutput | None:
        """Return the output on the frame passed `steps` frames ago; None if it was prompted."""
        frame_idx = self.passed(steps)
        if frame_idx is None:
            return None
        return self.memory.non_cond_frame_outputs.get(frame_idx)

    def drop_mask(self, frame_idx: int) -> None:
        """Drop mask and prompts of a frame that is not read again; its memory stays."""
        output = self.memory.output(frame_idx)
        if output is not None:
            output.pred_masks = None
        self.drop_prompt(frame_idx)

    def forget_tracked(self, frame_idx: int) -> None:
        """Drop the record that a frame was passed, and its output if it was not prompted."""
        del self.frames_tracked[frame_idx]
        self.memory.non_cond_frame_outputs.pop(frame_idx, None)
        self.drop_prompt(frame_idx)
