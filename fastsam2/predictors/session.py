"""The state of one video: its frames, and for each object its prompts and memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fastsam2.engine.feature_cache import FeatureCache, Frames
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.runtime.offload import PendingOffload
from fastsam2.errors import InputError, StateError
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.object_memory import ObjectMemory, SelectionRules
from fastsam2.types import DictRecord, FrameOutput, PointPrompt, Prompts

__all__ = ["ObjectState", "VideoSession"]


@dataclass(eq=False)
class ObjectState:
    """One object: what the user said of it, and what is known of it."""

    obj_id: Any
    point_inputs: dict[int, PointPrompt] = field(default_factory=Prompts)
    mask_inputs: dict[int, Tensor] = field(default_factory=dict)
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    pending: ObjectMemory = field(default_factory=ObjectMemory)
    """Answers to prompts since the last propagation, not yet encoded into memory."""
    frames_tracked: dict[int, dict[str, bool]] = field(default_factory=dict)
    """`{"reverse": ...}` for each frame that propagation has passed, in the order of passing."""

    def output(self, frame_idx: int, is_cond: bool) -> FrameOutput | None:
        """The newest answer on a frame: a pending one of this kind, else what is remembered."""
        kind = "cond_frame_outputs" if is_cond else "non_cond_frame_outputs"
        found = self.pending[kind].get(frame_idx)
        return self.memory.output(frame_idx) if found is None else found

    def keep_prompt(self, frame_idx: int, points: PointPrompt | None, mask: Tensor | None) -> None:
        """A frame has one prompt: points or a mask, whichever came last."""
        self.point_inputs.pop(frame_idx, None)
        self.mask_inputs.pop(frame_idx, None)
        if points is not None:
            self.point_inputs[frame_idx] = points
        if mask is not None:
            self.mask_inputs[frame_idx] = mask

    def prompted_frames(self) -> set[int]:
        return self.point_inputs.keys() | self.mask_inputs.keys()

    def mark_tracked(self, frame_idx: int, reverse: bool) -> None:
        """Propagation has passed a frame."""
        self.frames_tracked.pop(frame_idx, None)
        self.frames_tracked[frame_idx] = {"reverse": reverse}

    def passed(self, steps: int) -> int | None:
        """The frame that propagation passed so many frames before the one it passed last."""
        return next(islice(reversed(self.frames_tracked), steps, None), None)

    def forget_tracked(self, frame_idx: int) -> None:
        """Forget that a frame was passed, and what was found there if it was not prompted."""
        del self.frames_tracked[frame_idx]
        self.memory.non_cond_frame_outputs.pop(frame_idx, None)
        self.point_inputs.pop(frame_idx, None)
        self.mask_inputs.pop(frame_idx, None)


@dataclass(eq=False)
class VideoSession(DictRecord):
    """Inference state of one video.

    It reads like the dictionary that `sam2`'s `init_state` returns: the same 18 keys, of which
    those per object are computed from `objects`.
    """

    KEYS = (
        "images",
        "num_frames",
        "offload_video_to_cpu",
        "offload_state_to_cpu",
        "video_height",
        "video_width",
        "device",
        "storage_device",
        "point_inputs_per_obj",
        "mask_inputs_per_obj",
        "cached_features",
        "constants",
        "obj_id_to_idx",
        "obj_idx_to_id",
        "obj_ids",
        "output_dict_per_obj",
        "temp_output_dict_per_obj",
        "frames_tracked_per_obj",
    )
    images: Frames  #: normalised frames, float32 `[3, S, S]` each
    num_frames: int | None  #: None where the end is not known
    video_height: int
    video_width: int
    device: torch.device  #: where the model computes
    storage_device: torch.device  #: where masks and memory are kept
    offload_video_to_cpu: bool = False
    offload_state_to_cpu: bool = False
    objects: list[ObjectState] = field(default_factory=list)
    obj_ids: list[Any] = field(default_factory=list)  #: ids in the order of `objects`
    cached_features: dict[int, tuple[Tensor, dict[str, Any]]] = field(default_factory=dict)
    """The image and the image encoder's output of the frame last worked on."""
    constants: dict[str, Any] = field(default_factory=dict)
    features: FeatureCache | None = None
    """Encodes and keeps the features of `images`; None where a client brings frames of its own."""
    history: int | None = None
    """How many of the frames passed last are remembered, those that can be read at least; None for
    all."""
    _pool: MemoryPool | None = field(default=None, repr=False)
    _leaving: PendingOffload | None = field(default=None, repr=False)
    _extra: dict[str, Any] = field(default_factory=dict, repr=False, kw_only=True)

    def __getstate__(self) -> dict[str, Any]:
        # A copy encodes its frames itself, and has no tensor that the pool knows by its identity.
        return {**self.__dict__, "features": None, "_pool": None, "_leaving": None}

    @property
    def obj_id_to_idx(self) -> OrderedDict[Any, int]:
        return OrderedDict((o.obj_id, i) for i, o in enumerate(self.objects))

    @property
    def obj_idx_to_id(self) -> OrderedDict[int, Any]:
        return OrderedDict((i, o.obj_id) for i, o in enumerate(self.objects))

    @property
    def point_inputs_per_obj(self) -> dict[int, dict[int, PointPrompt]]:
        return {i: o.point_inputs for i, o in enumerate(self.objects)}

    @property
    def mask_inputs_per_obj(self) -> dict[int, dict[int, Tensor]]:
        return {i: o.mask_inputs for i, o in enumerate(self.objects)}

    @property
    def output_dict_per_obj(self) -> dict[int, ObjectMemory]:
        return {i: o.memory for i, o in enumerate(self.objects)}

    @property
    def temp_output_dict_per_obj(self) -> dict[int, ObjectMemory]:
        return {i: o.pending for i, o in enumerate(self.objects)}

    @property
    def frames_tracked_per_obj(self) -> dict[int, dict[int, dict[str, bool]]]:
        return {i: o.frames_tracked for i, o in enumerate(self.objects)}

    def pool(self, model: VideoModel) -> MemoryPool:
        """Where memory is brought to be read."""
        if self._pool is None or not self._pool.fits(model):
            self._pool = model.pools.lend(model, self)
        return self._pool

    def evict(self, objects: Sequence[ObjectState], rules: SelectionRules) -> None:
        """Move what can no longer be read to the CPU, or forget it where history leaves it out."""
        if self._leaving is not None:
            self._leaving.finish()
            self._leaving = None
        # A correction reads what the frame itself has read.
        unread = rules.reach + 1
        if self.history is None or self.history > unread:
            aged = [(obj, obj.passed(unread)) for obj in objects]
            outputs = [obj.memory.non_cond_frame_outputs.get(t) for obj, t in aged if t is not None]
            self._leaving = PendingOffload([output for output in outputs if output is not None])
        if self.history is not None:
            for obj in objects:
                outdated = obj.passed(max(self.history, unread))
                if outdated is not None:
                    obj.forget_tracked(outdated)

    def find(self, obj_id: Any) -> ObjectState | None:
        # As a dictionary finds it: == between ids of different kinds need not be a truth value.
        return {o.obj_id: o for o in self.objects}.get(obj_id)

    def get_object(self, obj_id: Any) -> ObjectState:
        """The object with this id.

        Raises:
            StateError: there is none.
        """
        found = self.find(obj_id)
        if found is None:
            raise StateError(f"there is no object {obj_id!r}; the objects are {self.obj_ids}")
        return found

    def object_for(self, obj_id: Any) -> ObjectState:
        """The object with this id, or a new one that `add_object` would add.

        Raises:
            InputError: no dictionary takes this id.
        """
        try:
            hash(obj_id)
        except TypeError:
            raise InputError(f"obj_id must be hashable, not {obj_id!r}") from None
        return self.find(obj_id) or ObjectState(obj_id)

    def add_object(self, obj: ObjectState) -> None:
        if obj not in self.objects:
            self.objects.append(obj)
            # A new list: ids that were handed out with earlier results stay what they were.
            self.obj_ids = [o.obj_id for o in self.objects]

    def drop_object(self, obj_id: Any) -> None:
        self.objects.remove(self.get_object(obj_id))
        self.obj_ids = [o.obj_id for o in self.objects]

    def drop_all_objects(self) -> None:
        self.objects.clear()
        self.obj_ids.clear()

    def check_frame(self, frame_idx: int) -> int:
        """`frame_idx` as an int, if the video has such a frame.

        Raises:
            InputError: it has not.
        """
        try:
            index = int(frame_idx)
        except (TypeError, ValueError):
            raise InputError(f"frame_idx must be a whole number, not {frame_idx!r}") from None
        end = index + 1 if self.num_frames is None else self.num_frames
        if index != frame_idx or not 0 <= index < end:
            raise InputError(f"there is no frame {frame_idx}; the video has frames 0 to {end - 1}")
        return index
