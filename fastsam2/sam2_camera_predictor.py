"""`SAM2CameraPredictor`: a stream under the names that programs for cameras know.

`sam2` has no such class. The names are those of the most used real-time fork of it,
github.com/Gy920/segment-anything-2-real-time; new programs take `SAM2StreamPredictor`.
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
    """SAM 2 on one camera: load a frame, prompt objects on it, track them through what follows.

    The predictor holds the stream. Unlike in the fork, objects may be added and corrected on any
    frame while it is the last one given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stream = StreamSession(self)

    @property
    def frame_idx(self) -> int:
        """Number of the frame last given."""
        return self._stream.frame_idx or 0

    @frame_idx.setter
    def frame_idx(self, frame_idx: int) -> None:
        # The fork goes on counting after load_first_frame(), which programs undo.
        if frame_idx not in (0, self.frame_idx):
            raise StateError(f"frame_idx cannot become {frame_idx}: frames are counted by track()")

    @property
    def condition_state(self) -> Mapping[str, Any]:
        """The state of the stream, read as that of a video; empty before the first frame."""
        return self._stream.state or {}

    @condition_state.setter
    def condition_state(self, state: Mapping[str, Any]) -> None:
        if state:
            raise StateError("condition_state can only be emptied, which forgets the stream")
        self._stream.reset()

    def load_first_frame(self, img: Any) -> None:
        """Begin anew, with this frame as frame 0.

        Args:
            img: RGB, uint8 `[H, W, 3]` or a PIL image.

        Raises:
            VideoError: no such array.
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
        """Prompt an object, new or known, on the frame last given.

        Args:
            frame_idx: number of that frame; 0 after `load_first_frame`.
            bbox: two corners, in any shape of 4 numbers.

        Other arguments, the result and errors are those of
        `SAM2VideoPredictor.add_new_points_or_box`.

        Raises:
            StateError: there is no frame yet, or it is another one.
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
        """The older name of `add_new_prompt`."""
        return self.add_new_prompt(*args, **kwargs)

    @torch.inference_mode()
    def add_new_mask(self, frame_idx: int, obj_id: Any, mask: Any) -> tuple[int, list[Any], Tensor]:
        """Prompt an object with a mask `[H, W]`; returns and raises as `add_new_prompt`."""
        return _with_frame(tracking.add_mask(self, self._at(frame_idx), frame_idx, obj_id, mask))

    def track(self, img: Any) -> tuple[list[Any], Tensor]:
        """Go on to the next frame, as `load_first_frame` takes it.

        Returns:
            The ids of all objects, and their mask logits, float32 `[O, 1, H, W]`.

        Raises:
            StateError: there is no first frame.
            VideoError: no such array.
            InputError: the size of the frames changes.
        """
        if self._stream.state is None:
            raise StateError("there is no frame yet: load_first_frame() comes first")
        result = self._stream.step(_pixels(img))
        return result.obj_ids, result.logits

    def reset_state(self) -> None:
        """Forget all objects; the frame last given stays, and can be prompted again."""
        if self._stream.state is not None:
            self._stream.state.drop_all_objects()

    def _at(self, frame_idx: int) -> VideoSession:
        session = self._stream.state
        if session is None:
            raise StateError("there is no frame yet: load_first_frame() comes first")
        if frame_idx != self.frame_idx:
            raise StateError(f"frame {frame_idx} is not here; the camera is at {self.frame_idx}")
        return session


def _pixels(img: Any) -> Any:
    return np.asarray(img.convert("RGB")) if isinstance(img, Image.Image) else img


def _with_frame(result: FrameResult) -> tuple[int, list[Any], Tensor]:
    return result.frame_idx, result.obj_ids, result.logits
