"""Sessions over plain dictionaries that clients build with the keys of `init_state`."""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping
from typing import Any

from fastsam2.errors import InputError
from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.predictors.session import ObjectState, VideoSession
from fastsam2.types import Prompts

__all__ = ["DictSession", "as_session"]

#: Key under which a dict keeps its session.
_SESSION = "fastsam2_session"

#: Keys that are computed from the objects.
_OF_OBJECTS = (
    "obj_id_to_idx",
    "obj_idx_to_id",
    "point_inputs_per_obj",
    "mask_inputs_per_obj",
    "output_dict_per_obj",
    "temp_output_dict_per_obj",
    "frames_tracked_per_obj",
)

#: Keys that `sam2` never reads.
_OPTIONAL = ("offload_video_to_cpu", "offload_state_to_cpu")


def as_session(state: MutableMapping[str, Any]) -> VideoSession:
    """Return the session of a state.

    Raises:
        InputError: it is not a mapping or lacks a key.
    """
    if isinstance(state, VideoSession):
        return state
    if not isinstance(state, MutableMapping):
        raise InputError(f"inference_state must come from init_state, not {type(state).__name__}")
    missing = [key for key in VideoSession.KEYS if key not in state and key not in _OPTIONAL]
    if missing:
        raise InputError(f"inference_state lacks {', '.join(missing)}")
    session = state.get(_SESSION)
    # A copy of a dict holds the session of the original.
    if not isinstance(session, DictSession) or session.state is not state:
        session = state[_SESSION] = DictSession(state)
    session.refresh()
    return session


class DictSession(VideoSession):
    """A session over a client's dict.

    Values are read from the dict on every access, and written to it. The session and the dict share
    the containers of each object, so that changes on one side appear on the other.
    """

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        self.state = state
        self.objects = []
        self.history = None
        self.features = None
        self._pool = None
        self._offloads = deque()
        self._extra = {}

    @property
    def inference_state(self) -> MutableMapping[str, Any]:
        return self.state

    def __repr__(self) -> str:
        # The dict holds the session: printing it would recurse.
        return f"{type(self).__name__}({len(self.objects)} objects)"

    def refresh(self) -> None:
        """Read the objects and their containers from the dict."""
        known = {obj.obj_id: obj for obj in self.objects}
        self.objects = [
            self._take(known.get(obj_id) or ObjectState(obj_id), index)
            for index, obj_id in sorted(self.state["obj_idx_to_id"].items())
        ]
        self._publish()

    def _take(self, obj: ObjectState, index: int) -> ObjectState:
        state = self.state
        obj.point_inputs = Prompts.of(state["point_inputs_per_obj"][index])
        obj.mask_inputs = state["mask_inputs_per_obj"][index]
        obj.memory = ObjectMemory.of(state["output_dict_per_obj"][index])
        obj.pending = ObjectMemory.of(state["temp_output_dict_per_obj"][index])
        obj.frames_tracked = state["frames_tracked_per_obj"][index]
        return obj

    def _publish(self) -> None:
        for key in _OF_OBJECTS:
            current = dict(getattr(self, key))
            self.state[key].clear()
            self.state[key].update(current)

    def add_object(self, obj: ObjectState) -> None:
        super().add_object(obj)
        self._publish()

    def drop_object(self, obj_id: Any) -> None:
        super().drop_object(obj_id)
        self._publish()

    def drop_all_objects(self) -> None:
        super().drop_all_objects()
        self._publish()


def _value(key: str) -> property:
    def read(session: DictSession) -> Any:
        return session.state[key]

    def write(session: DictSession, value: Any) -> None:
        session.state[key] = value

    return property(read, write)


for _key in VideoSession.KEYS:
    if _key not in _OF_OBJECTS:
        setattr(DictSession, _key, _value(_key))
