"""`SAM2CameraPredictor`: tracking on a camera, with the interface of a real-time fork of `sam2`.

`sam2` has no such class. The names are those of the most used real-time fork,
github.com/Gy920/segment-anything-2-real-time; new programs should use `SAM2StreamPredictor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.errors import StateError
from fastsam2.predictors import tracking
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import VideoSession
from fastsam2.predictors.stream import StreamSession

__all__ = ["SAM2CameraPredictor"]


class SAM2CameraPredictor(VideoModel):
    """SAM 2 on one camera: load a frame, prompt objects on it, track them on the frames after it.

    The predictor holds the stream. Unlike in the fork, objects can be added and corrected on the
    current frame at any time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stream = StreamSession(self)

    @property
    def frame_idx(self) -> int:
        """Index of the current frame."""
        return self._stream.frame_idx or 0

    @frame_idx.setter
    def frame_idx(self, frame_idx: int) -> None:
        # The fork does not reset its count in load_first_frame(), so programs set it to 0.
        if frame_idx not in (0, self.frame_idx):
            raise StateError(f"frame_idx cannot be set to {frame_idx}: track() counts the frames")

    @property
    def condition_state(self) -> Mapping[str, Any]:
        """The state of the stream, with the keys of a video's state; empty before the first frame.

        Setting it to an empty value resets the stream.
        """
        return self._stream.state or {}

    @condition_state.setter
    def condition_state(self, state: Mapping[str, Any]) -> None:
        if state:
            raise StateError("condition_state can only be set to an empty value, for a reset")
        self._stream.reset()

    def load_first_frame(self, img: Any) -> None:
        """Reset the stream and start it with this frame as frame 0.

        Args:
            img: RGB, uint8 `[H, W, 3]` or a PIL image.

        Raises:
            VideoError: `img` is not such an image.
        """
        self._stream.reset()
        self._stream.step(_pixels(img))

    @torch.inference_mode()
    def add_new_prompt(
        self,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        bbox: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
    ) -> tuple[int, list[Any], Tensor]:
        """Prompt a new or existing object on the current frame.

        Args:
            frame_idx: index of the current frame; 0 after `load_first_frame`.
            bbox: two corners, in any shape of 4 numbers.

        Other arguments, the result and errors are those of
        `SAM2VideoPredictor.add_new_points_or_box`.

        Raises:
            StateError: there is no frame yet, or `frame_idx` is not the current one.
        """
        session = self._at(frame_idx)
        known = session.find(obj_id)
        # A box may come with clear_old_points=False as long as there are no points to keep.
        nothing_old = known is None or frame_idx not in known.point_inputs
        result = tracking.add_points(
            self,
            session,
            frame_idx,
            obj_id,
            points,
            labels,
            bbox,
            clear_old_points=clear_old_points or nothing_old,
            normalize_coords=normalize_coords,
        )
        return _with_frame(result)

    def add_new_points(self, *args: Any, **kwargs: Any) -> tuple[int, list[Any], Tensor]:
        """Call `add_new_prompt`; its older name."""
        return self.add_new_prompt(*args, **kwargs)

    @torch.inference_mode()
    def add_new_mask(self, frame_idx: int, obj_id: Any, mask: Any) -> tuple[int, list[Any], Tensor]:
        """Prompt an object with a mask `[H, W]`; returns and raises like `add_new_prompt`."""
        return _with_frame(tracking.add_mask(self, self._at(frame_idx), frame_idx, obj_id, mask))

    def track(self, img: Any) -> tuple[list[Any], Tensor]:
        """Track all objects on the next frame.

        Args:
            img: as for `load_first_frame`.

        Returns:
            The ids of all objects, and their mask logits, float32 `[O, 1, H, W]`.

        Raises:
            StateError: there is no first frame.
            VideoError: `img` is not such an image.
            InputError: its size differs from that of earlier frames.
        """
        if self._stream.state is None:
            raise StateError("there is no frame yet: call load_first_frame() first")
        result = self._stream.step(_pixels(img))
        return result.obj_ids, result.logits

    def reset_state(self) -> None:
        """Remove all objects; the current frame stays, and can be prompted again."""
        if self._stream.state is not None:
            self._stream.state.drop_all_objects()

    def _at(self, frame_idx: int) -> VideoSession:
        session = self._stream.state
        if session is None:
            raise StateError("there is no frame yet: call load_first_frame() first")
        if frame_idx != self.frame_idx:
            raise StateError(f"the current frame is {self.frame_idx}, not {frame_idx}")
        return session


def _pixels(img: Any) -> Any:
    return np.asarray(img.convert("RGB")) if isinstance(img, Image.Image) else img


def _with_frame(result: FrameResult) -> tuple[int, list[Any], Tensor]:
    return result.frame_idx, result.obj_ids, result.logits
