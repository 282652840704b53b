"""State of one video: its frames, and the prompts and memory of each object."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fastsam2.data.arrays import ArraySource
from fastsam2.data.images import ImageSource
from fastsam2.data.loader import FrameLoader
from fastsam2.data.video import VideoSource
from fastsam2.engine.feature_cache import Encode, Encoded, FeatureCache, Frames
from fastsam2.engine.fused.image_encoder import FusedImageEncoder
from fastsam2.engine.memory_pool import MemoryPool, Pools
from fastsam2.engine.runtime.offload import PendingOffload
from fastsam2.errors import InputError, StateError
from fastsam2.modeling.memory_selection import SelectionRules
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.predictors.object_state import ObjectState
from fastsam2.types import FrameOutput, Item, Outputs, PointPrompt, Prompts, restored

if TYPE_CHECKING:
    pass

__all__ = ["VideoSession", "VideoState"]

#: Copies to the CPU that may be under way before the host waits for the oldest.
_PENDING_OFFLOADS = 8


class VideoSession:
    """Typed access to the inference state of one video.

    The values are in `inference_state`, a dictionary with the keys that `init_state` of `sam2`
    gives it. A program may change them at any time; a missing one raises KeyError when it is read.
    """

    KEYS: ClassVar = (
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
    images = Item[Frames]()  #: normalised frames, float32 `[3, S, S]` each
    num_frames = Item[int | None]()  #: None for a stream
    video_height = Item[int]()
    video_width = Item[int]()
    device = Item[torch.device]()  #: device of the model
    storage_device = Item[torch.device]()  #: device of stored masks and memory
    cached_features = Item[dict[int, Any]]()
    """Image and image encoder output of the current frame."""
    constants = Item[dict[str, Any]]()
    obj_id_to_idx = Item[dict[Any, int]]()
    obj_idx_to_id = Item[dict[int, Any]]()
    obj_ids = Item[list[Any]]()  #: ids in the order of `objects`

    def __init__(self, features: FeatureCache | None = None, history: int | None = None) -> None:
        self.features = features
        self.history = history
        self._pool: MemoryPool | None = None
        self._offloads: deque[PendingOffload] = deque()

    @property
    def inference_state(self) -> MutableMapping[str, Any]:
        """The state to pass to methods with official names."""
        raise NotImplementedError

    def __getitem__(self, key: str) -> Any:
        return self.inference_state[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.inference_state[key] = value

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_pool", "_offloads")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies have a pool of their own.
        VideoSession.__init__(self)
        self.__dict__.update(state)

    @property
    def objects(self) -> list[ObjectState]:
        """The objects, in the order of their indices."""
        state = self.inference_state
        return [ObjectState(obj_id, state, i) for i, obj_id in sorted(self.obj_idx_to_id.items())]

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
        """Return the object with this id; None if there is none.

        Raises:
            InputError: the id is not hashable.
        """
        try:
            hash(obj_id)
        except TypeError:
            raise InputError(f"obj_id must be hashable, not {obj_id!r}") from None
        index = self.obj_id_to_idx.get(obj_id)
        return None if index is None else ObjectState(obj_id, self.inference_state, index)

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
        """Return the object with this id, or a new one, which is not added."""
        return self.find(obj_id) or ObjectState.new(obj_id)

    def add_object(self, obj: ObjectState) -> None:
        """Add an object, unless there is one with its id."""
        if obj.obj_id in self.obj_id_to_idx:
            return
        index = self.obj_id_to_idx[obj.obj_id] = len(self.obj_id_to_idx)
        self.obj_idx_to_id[index] = obj.obj_id
        for part in ObjectState.PARTS:
            self[part.key][index] = obj.state[part.key][obj.index]
        # A new list, so that earlier results keep their ids.
        self.obj_ids = list(self.obj_id_to_idx)

    def drop_object(self, obj_id: Any) -> None:
        """Remove an object, and number those after it anew.

        Raises:
            StateError: there is none.
        """
        self.get_object(obj_id)
        count, dropped = len(self.obj_id_to_idx), self.obj_id_to_idx.pop(obj_id)
        self.obj_ids = list(self.obj_id_to_idx)
        self.obj_id_to_idx.update((x, i) for i, x in enumerate(self.obj_ids))
        self.obj_idx_to_id.clear()
        self.obj_idx_to_id.update(enumerate(self.obj_ids))
        for part in ObjectState.PARTS:
            values = [self[part.key].pop(i) for i in range(count)]
            del values[dropped]
            self[part.key].update(enumerate(values))

    def drop_all_objects(self) -> None:
        for obj in self.objects:
            obj.clear()
        parts = [self[part.key] for part in ObjectState.PARTS]
        for container in (self.obj_id_to_idx, self.obj_idx_to_id, self.obj_ids, *parts):
            container.clear()

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


class VideoState(dict[str, Any], VideoSession):
    """The state that `init_state` returns: a session that is its own `inference_state`.

    Args:
        features: cached features of `images`; None for frames that a client provides, which may
            change.
        history: number of last passed frames whose outputs are kept, at least those that can be
            read; None for all.
    """

    def __init__(
        self,
        *,
        images: Frames,
        num_frames: int | None,
        video_height: int,
        video_width: int,
        device: torch.device,
        storage_device: torch.device,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        features: FeatureCache | None = None,
        history: int | None = None,
    ) -> None:
        VideoSession.__init__(self, features, history)
        self.update(dict.fromkeys(self.KEYS))  # in this order
        self["images"] = images
        self["num_frames"] = num_frames
        self["offload_video_to_cpu"] = offload_video_to_cpu
        self["offload_state_to_cpu"] = offload_state_to_cpu
        self["video_height"], self["video_width"] = video_height, video_width
        self["device"], self["storage_device"] = device, storage_device
        self["cached_features"], self["constants"] = {}, {}
        self["obj_id_to_idx"], self["obj_idx_to_id"] = OrderedDict(), OrderedDict()
        self["obj_ids"] = []
        self.update((part.key, {}) for part in ObjectState.PARTS)

    @property
    def inference_state(self) -> MutableMapping[str, Any]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), dict(self)), self.__getstate__()


# As those of `sam2`, states are read by `torch.load` with its default `weights_only=True`.
torch.serialization.add_safe_globals(
    [
        *(restored, VideoState, ObjectMemory, Outputs, FrameOutput, Prompts, PointPrompt),
        *(FeatureCache, Encoded, FrameLoader, ImageSource, ArraySource, VideoSource),
    ]
)
