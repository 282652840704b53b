"""State of one video: its frames, and the prompts and memory of each object."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fastsam2.engine.feature_cache import Encode, Encoded, FeatureCache, Frames
from fastsam2.engine.fused.image_encoder import FusedImageEncoder
from fastsam2.engine.memory_pool import MemoryPool, Pools
from fastsam2.engine.runtime.offload import PendingOffload
from fastsam2.errors import InputError, StateError
from fastsam2.modeling.memory_selection import SelectionRules
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.types import DictRecord, FrameOutput, PointPrompt, Prompts

__all__ = ["ObjectState", "VideoSession"]

#: Copies to the CPU that may be under way before the host waits for the oldest.
_PENDING_OFFLOADS = 8


@dataclass(eq=False)
class ObjectState:
    """Prompts and memory of one object."""

    obj_id: Any
    point_inputs: dict[int, PointPrompt] = field(default_factory=Prompts)
    mask_inputs: dict[int, Tensor] = field(default_factory=dict)
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    pending: ObjectMemory = field(default_factory=ObjectMemory)
    """Outputs of prompts since the last propagation, not yet encoded into memory."""
    frames_tracked: dict[int, dict[str, bool]] = field(default_factory=dict)
    """`{"reverse": ...}` for each frame that propagation has passed, in that order."""

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


@dataclass(eq=False)
class VideoSession(DictRecord):
    """Inference state of one video, also usable as the dictionary that `init_state` of `sam2`
    returns.

    It has the same 18 keys; those per object are computed from `objects`.
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
    num_frames: int | None  #: None for a stream
    video_height: int
    video_width: int
    device: torch.device  #: device of the model
    storage_device: torch.device  #: device of stored masks and memory
    offload_video_to_cpu: bool = False
    offload_state_to_cpu: bool = False
    objects: list[ObjectState] = field(default_factory=list)
    obj_ids: list[Any] = field(default_factory=list)  #: ids in the order of `objects`
    cached_features: dict[int, Any] = field(default_factory=dict)
    """Image and image encoder output of the current frame."""
    constants: dict[str, Any] = field(default_factory=dict)
    features: FeatureCache | None = None
    """Features of `images`; None for frames that a client provides, which may change."""
    history: int | None = None
    """Number of last passed frames whose outputs are kept, at least those that can be read; None
    for all."""
    _pool: MemoryPool | None = field(default=None, repr=False)
    _offloads: deque[PendingOffload] = field(default_factory=deque, repr=False)
    _extra: dict[str, Any] = field(default_factory=dict, repr=False, kw_only=True)

    def __getstate__(self) -> dict[str, Any]:
        # Copies encode their frames themselves, into their own pool.
        return {**self.__dict__, "features": None, "_pool": None, "_offloads": deque()}

    @property
    def inference_state(self) -> MutableMapping[str, Any]:
        """The state to pass to methods with official names."""
        return self

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

    def pool(self, model: SAM2Base, memory_dtype: torch.dtype, pools: Pools) -> MemoryPool:
        """Return the memory pool of this session.

        Args:
            model: the model that reads it; its dtype is that of pointers.
            memory_dtype: dtype of memory maps.
            pools: lends a pool if the session has no matching one.
        """
        if self._pool is None or not self._pool.fits(model, memory_dtype):
            self._pool = pools.lend(model, memory_dtype, self)
        return self._pool

    def encoded_frame(self, encode: Encode, frame_idx: int, then: Sequence[int] = ()) -> Encoded:
        """Return the image and features of a frame.

        Args:
            encode: encodes images on the session's device.
            then: the frames that will be requested next.
        """
        cached = self.cached_features.get(frame_idx)
        if cached is None:
            device = torch.device(self.device)
            features = self.features
            # A client may have replaced the encoder or the frames.
            fused = isinstance(encode, FusedImageEncoder)
            if fused and features is not None and features.frames is self.images:
                cached = features.get(encode, device, frame_idx, then)
            else:
                (cached,) = Encoded.of(encode, [self.images[frame_idx]], device)
            self.cached_features = {frame_idx: cached}
        return Encoded(*cached)

    def evict(self, objects: Sequence[ObjectState], rules: SelectionRules) -> None:
        """Free device memory of outputs that the next frame cannot read.

        Maps are freed or copied out of their slots once they are out of `rules.memory_reach`.
        Outputs kept by `history` are offloaded to the CPU, others are dropped.
        """
        while self._offloads and (
            len(self._offloads) > _PENDING_OFFLOADS or self._offloads[0].completed()
        ):
            self._offloads.popleft().finish()
        # A correction of the last frame reads the same memories as that frame.
        maps, unread = rules.memory_reach + 1, rules.reach + 1
        keep = self.history is None or self.history > unread
        leaving: list[tuple[FrameOutput, Sequence[str]]] = []
        for obj in objects:
            newest, unread_map, oldest = (obj.tracked_output(n) for n in (0, maps, unread))
            # The caller has the mask. A stream drops it with the next frame.
            if newest is not None and self.num_frames is not None:
                leaving.append((newest, ["pred_masks"]))
            if unread_map is not None and not keep:
                unread_map.maskmem_features = None
            elif unread_map is not None:
                leaving.append((unread_map, ["maskmem_features"]))
            if oldest is not None and keep:
                leaving.append((oldest, ["obj_ptr", "object_score_logits", "predicted_iou"]))
        self._offloads.append(PendingOffload(leaving))
        if self.history is not None:
            for obj in objects:
                outdated = obj.passed(max(self.history, unread))
                if outdated is not None:
                    obj.forget_tracked(outdated)

    def find(self, obj_id: Any) -> ObjectState | None:
        # A dictionary compares hashes first: == between ids of different types need not be a bool.
        return {o.obj_id: o for o in self.objects}.get(obj_id)

    def get_object(self, obj_id: Any) -> ObjectState:
        """Return the object with this id.

        Raises:
            StateError: there is none.
        """
        found = self.find(obj_id)
        if found is None:
            raise StateError(f"no object {obj_id!r}; the objects are {self.obj_ids}")
        return found

    def object_for(self, obj_id: Any) -> ObjectState:
        """Return the object with this id, or a new one, which is not added.

        Raises:
            InputError: the id is not hashable.
        """
        try:
            hash(obj_id)
        except TypeError:
            raise InputError(f"obj_id must be hashable, not {obj_id!r}") from None
        return self.find(obj_id) or ObjectState(obj_id)

    def add_object(self, obj: ObjectState) -> None:
        if obj not in self.objects:
            self.objects.append(obj)
            # A new list, so that earlier results keep their ids.
            self.obj_ids = [o.obj_id for o in self.objects]

    def drop_object(self, obj_id: Any) -> None:
        self.objects.remove(self.get_object(obj_id))
        self.obj_ids = [o.obj_id for o in self.objects]

    def drop_all_objects(self) -> None:
        self.objects.clear()
        self.obj_ids.clear()

    def check_frame(self, frame_idx: int) -> int:
        """Return `frame_idx` as an int.

        Raises:
            InputError: it is not a whole number, or the video has no such frame.
        """
        try:
            index = int(frame_idx)
            if isinstance(frame_idx, (str, bytes)):  # such as a key of JSON
                raise TypeError
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"frame_idx must be a whole number, not {frame_idx!r}") from None
        end = index + 1 if self.num_frames is None else self.num_frames
        if index != frame_idx or not 0 <= index < end:
            raise InputError(f"no frame {frame_idx}; the video has frames 0 to {end - 1}")
        return index
