"""Serialization of a session's objects to plain containers and tensors, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.predictors.object_state import ObjectState
from fastsam2.predictors.session import VideoSession
from fastsam2.types import FrameOutput, PointPrompt

__all__ = ["dump_objects", "load_objects"]

_OUTPUT = (*FrameOutput.KEYS, "predicted_iou")


def dump_objects(session: VideoSession) -> list[dict[str, Any]]:
    """Return prompts, memory and tracking records of each object; tensors are copies."""
    return [
        {
            "obj_id": obj.obj_id,
            "point_inputs": {t: _dump(p, PointPrompt.KEYS) for t, p in obj.point_inputs.items()},
            "mask_inputs": {t: mask.clone() for t, mask in obj.mask_inputs.items()},
            "memory": _each_frame(obj.memory, lambda output: _dump(output, _OUTPUT)),
            "pending": _each_frame(obj.pending, lambda output: _dump(output, _OUTPUT)),
            "frames_tracked": {t: dict(how) for t, how in obj.frames_tracked.items()},
        }
        for obj in session.objects
    ]


def load_objects(session: VideoSession, objects: list[dict[str, Any]]) -> None:
    """Add the objects that `dump_objects` returned to a session."""

    def place(value: Any) -> Any:
        # A copy, as the state may be loaded again.
        return value.to(session.device, copy=True) if isinstance(value, Tensor) else value

    def output(state: dict[str, Any]) -> FrameOutput:
        found = FrameOutput(*(place(state[key]) for key in _OUTPUT))
        if found.maskmem_pos_enc is not None:
            shared = [place(x) for x in found.maskmem_pos_enc]
            found.maskmem_pos_enc = session.constants.setdefault("maskmem_pos_enc", shared)
        return found

    for state in objects:
        obj = ObjectState.new(state["obj_id"])
        for t, prompt in state["point_inputs"].items():
            obj.point_inputs[t] = PointPrompt(*(place(prompt[key]) for key in PointPrompt.KEYS))
        obj.mask_inputs.update((t, place(mask)) for t, mask in state["mask_inputs"].items())
        obj.memory.update(_each_frame(state["memory"], output))
        obj.pending.update(_each_frame(state["pending"], output))
        obj.frames_tracked.update((t, dict(how)) for t, how in state["frames_tracked"].items())
        session.add_object(obj)


def _dump(record: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    values = {key: getattr(record, key) for key in keys}
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}


def _each_frame(memory: Any, convert: Callable[[Any], Any]) -> dict[str, Any]:
    return {key: {t: convert(x) for t, x in memory[key].items()} for key in ObjectMemory.KEYS}
