"""Tracking on a stream, whose frames are given one by one.

A stream is a video of unknown length. The session stores the current frame and the memories that
the next frame can read, so its size does not grow with the number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastsam2.data.frame_source import check_array
from fastsam2.data.preprocess import frame_for_device, model_input
from fastsam2.engine.runtime.upload import to_device
from fastsam2.errors import InputError, StateError
from fastsam2.predictors import tracking
from fastsam2.predictors.frame_outputs import current_result
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import VideoState
from fastsam2.predictors.stream_state import dump_objects, load_objects

__all__ = ["StreamSession"]


@dataclass(frozen=True)
class _Current:
    """The current frame; takes the place of a video's frames in the session."""

    frame_idx: int
    pixels: Tensor  #: uint8 `[H, W, 3]`, on a CPU resized to `[S, S, 3]`
    image_size: int  #: S

    def __len__(self) -> int:
        return self.frame_idx + 1

    def __getitem__(self, frame_idx: int) -> Tensor:
        if frame_idx != self.frame_idx:
            raise StateError(f"frame {frame_idx} has passed; the stream is at {self.frame_idx}")
        return model_input(self.pixels, self.image_size)


class StreamSession:
    """One stream; see `SAM2StreamPredictor.start`.

    Args:
        model: the video predictor, with its weights and options.
    """

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self._session: VideoState | None = None

    @property
    def frame_idx(self) -> int | None:
        """Number of the current frame, from 0; None before the first."""
        return None if self._session is None else len(self._session.images) - 1

    @property
    def state(self) -> VideoState | None:
        """The state of the stream, with the keys of a video's state; None before the first
        frame."""
        return self._session

    @property
    def obj_ids(self) -> list[Any]:
        """Ids of the objects."""
        return [] if self._session is None else list(self._session.obj_ids)

    @torch.inference_mode()
    def step(self, frame: Any) -> FrameResult:
        """Track all objects on the next frame.

        Args:
            frame: RGB, uint8 `[H, W, 3]`, a NumPy array or a tensor.

        Returns:
            The results of all objects; empty if there are none.

        Raises:
            VideoError: `frame` is not such an array.
            InputError: its size differs from that of earlier frames.
            torch.OutOfMemoryError: one object alone does not fit on the device.

        After an error the stream is unchanged, and can continue with the same frame or another.
        """
        model = self._model
        image = check_array(frame, "the frame", ndim=3)
        pixels = frame_for_device(image, model.image_size, model.device)
        pixels = to_device(pixels, model.device)
        session = self._session
        if session is None:
            current = _Current(0, pixels, model.image_size)
            self._session = session = _open(model, current, *image.shape[:2])
            return current_result(model, session, 0, is_cond=True)
        if image.shape[:2] != (session.video_height, session.video_width):
            raise InputError(
                f"the frame is {image.shape[1]}x{image.shape[0]} pixels, but earlier frames are "
                f"{session.video_width}x{session.video_height}: call reset() to start a new stream"
            )
        if session.objects:
            tracking.commit_prompts(model, session)
        before = session.images, session.cached_features
        frame_idx = len(session.images)
        session.images, session.cached_features = _Current(frame_idx, pixels, model.image_size), {}
        try:
            result = tracking.track_frame(
                model, model.fast_paths(), session, session.objects, frame_idx, reverse=False
            )
        except BaseException:
            session.images, session.cached_features = before
            raise
        for obj in session.objects:
            obj.drop_mask(frame_idx - 1)
        return result

    @torch.inference_mode()
    def add_object(
        self, obj_id: Any, points: Any = None, labels: Any = None, box: Any = None, mask: Any = None
    ) -> FrameResult:
        """Track one more object from the current frame on.

        Args:
            obj_id: a new id.
            points: (x, y) `[P, 2]` in pixels.
            labels: 1 for a point on the object, 0 for one on the background, `[P]`.
            box: (x0, y0, x1, y1) in pixels.
            mask: `[H, W]`, bool or 0 and 1; excludes points and box.

        Returns:
            The results of all objects on the current frame.

        Raises:
            StateError: there is no frame yet, or already an object with this id.
            InputError: the prompt is invalid.
        """
        session = self._started()
        if session.find(obj_id) is not None:
            raise StateError(f"object {obj_id!r} already exists: call correct() to prompt it again")
        return self._prompt(session, obj_id, points, labels, box, mask, clear_old_points=True)

    @torch.inference_mode()
    def correct(
        self,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask: Any = None,
        clear_old_points: bool = True,
    ) -> FrameResult:
        """Correct the mask of an object on the current frame.

        Args:
            clear_old_points: replace earlier points on this frame instead of adding to them.

        Other arguments and the result are those of `add_object`.

        Raises:
            StateError: there is no such object.
            InputError: the prompt is invalid.
        """
        session = self._started()
        session.get_object(obj_id)
        return self._prompt(session, obj_id, points, labels, box, mask, clear_old_points)

    def remove_object(self, obj_id: Any) -> None:
        """Stop tracking an object.

        Raises:
            StateError: there is no such object.
        """
        self._started().drop_object(obj_id)

    def reset(self) -> None:
        """Drop all objects and frames; the next frame is frame 0 and may have another size."""
        self._session = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stream in plain containers, with copies of its tensors.

        `torch.save` stores it, `torch.load(weights_only=True)` reads it if object ids are numbers
        or strings, and `load_state_dict` continues from it, also on another machine.
        """
        session = self._session
        if session is None:
            return {}
        current = session.images
        assert isinstance(current, _Current)
        return {
            **_shape(self._model),
            "frame_idx": current.frame_idx,
            "pixels": current.pixels.clone(),
            "video_size": (session.video_height, session.video_width),
            "objects": dump_objects(session),
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, with a model of the same weights.

        Raises:
            StateError: `state` is not from `state_dict`, or from a model of other sizes; the stream
                is unchanged.
        """
        if not state:
            self.reset()
            return
        model = self._model
        for key, value in _shape(model).items():
            if state.get(key) != value:
                raise StateError(f"the state has {key} {state.get(key)}, but the model has {value}")
        try:
            pixels = to_device(state["pixels"], model.device)
            current = _Current(state["frame_idx"], pixels, model.image_size)
            session = _open(model, current, *state["video_size"])
            load_objects(session, state["objects"])
        except (KeyError, TypeError, AttributeError) as error:
            raise StateError(f"not the state of a stream: {error!r}") from None
        self._session = session

    def _started(self) -> VideoState:
        if self._session is None:
            raise StateError("the stream has no frame yet: call step() first")
        return self._session

    def _prompt(
        self,
        session: VideoState,
        obj_id: Any,
        points: Any,
        labels: Any,
        box: Any,
        mask: Any,
        clear_old_points: bool,
    ) -> FrameResult:
        frame_idx = len(session.images) - 1
        if mask is None:
            return tracking.add_points(
                self._model,
                session,
                frame_idx,
                obj_id,
                points,
                labels,
                box,
                clear_old_points=clear_old_points,
                normalize_coords=True,
            )
        if not points is labels is box is None:
            raise InputError("a mask cannot be combined with points, labels or a box")
        return tracking.add_mask(self._model, session, frame_idx, obj_id, mask)


def _shape(model: VideoModel) -> dict[str, int]:
    """Return the sizes in which a state and the model that loads it must agree."""
    names = ("image_size", "num_maskmem", "mem_dim", "hidden_dim")
    return {name: getattr(model, name) for name in names}


def _open(model: VideoModel, frames: _Current, height: int, width: int) -> VideoState:
    return VideoState(
        images=frames,
        num_frames=None,
        video_height=height,
        video_width=width,
        device=model.device,
        storage_device=model.device,
        history=0,
    )
