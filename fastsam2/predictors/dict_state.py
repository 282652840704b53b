"""Sessions over plain dictionaries that clients build with the keys of `init_state`."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch

from fastsam2.errors import InputError
from fastsam2.predictors.session import VideoSession

__all__ = ["DictSession", "as_session"]

#: Key under which a dict keeps its session.
_SESSION = "fastsam2_session"

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
    return session


class DictSession(VideoSession):
    """A session over a client's dict; its values are read from the dict, and written to it."""

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        super().__init__()
        self.state = state

    @property
    def inference_state(self) -> MutableMapping[str, Any]:
        return self.state


torch.serialization.add_safe_globals([DictSession])
