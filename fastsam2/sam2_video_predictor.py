"""`SAM2VideoPredictor`: the official interface for tracking objects in a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from fastsam2.checkpoints import resolve_model
from fastsam2.data.loader import FrameLoader
from fastsam2.engine.feature_cache import DEFAULT_FEATURE_BYTES, FeatureCache, Frames
from fastsam2.engine.plan import Plan
from fastsam2.errors import InputError
from fastsam2.modeling.sam2_base import NO_OBJ_SCORE
from fastsam2.predictors import tracking
from fastsam2.predictors.building import build_tracker
from fastsam2.predictors.dict_state import as_session
from fastsam2.predictors.frame_outputs import current_result
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import VideoState
from fastsam2.predictors.warmup import warmup
from fastsam2.utils.misc import load_video_frames

__all__ = ["NO_OBJ_SCORE", "SAM2VideoPredictor", "SAM2VideoPredictorVOS"]

#: The session that `init_state` returned, or a client's dict with the same keys.
State = MutableMapping[str, Any]


class SAM2VideoPredictor(VideoModel):
    """SAM 2 for videos: prompt objects on any frame, propagate, correct, propagate again.

    All state is in the session that `init_state` returns, so one predictor serves many videos.
    """

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
        """Build a predictor with the weights of a Hugging Face repository.

        Args:
            model_id: such as `facebook/sam2.1-hiera-tiny`; also a short name or a local path.
            kwargs: arguments of `build_sam2_video_predictor_hf`.
        """
        return build_tracker(cls, *resolve_model(model_id), **kwargs)

    def warmup(
        self,
        n_objects: int = 1,
        size: tuple[int, int] = (720, 1280),
        progress: Callable[..., Iterable[int]] | None = None,
    ) -> None:
        """Compile functions, record CUDA graphs and load kernels before the first video.

        Compiled functions are cached on disk for later processes.

        Args:
            n_objects: largest number of objects in a video.
            size: (height, width) of the videos in pixels.
            progress: wraps the numbers of objects to run, by default `tqdm`.

        Raises:
            InputError: a number below 1.
        """
        warmup(self, n_objects, size, progress or tqdm)

    @torch.inference_mode()
    def init_state(
        self,
        video_path: Any,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        *,
        history: Literal["full", "window"] | int = "full",
        feature_bytes: int = DEFAULT_FEATURE_BYTES,
    ) -> VideoState:
        """Open a video.

        Args:
            video_path: a video file or its bytes, a folder of images, a list of paths, PIL images
                or arrays, a `uint8 [T, H, W, 3]` array, or an iterator of frames; or an earlier
                session on the same video, whose frames and features the new one shares.
            offload_video_to_cpu: return frames on the CPU and move each to the device on use. In
                either case frames are decoded on use, and never all on the device.
            offload_state_to_cpu: store masks on the CPU from the start. In either case memory maps
                stay on the device while frames can read them, and are then offloaded to the CPU.
            async_loading_frames: start to load frames in the background.
            history: number of last tracked frames whose outputs are kept. `"full"`: all, so that
                any frame can be corrected and tracked from again. `"window"`: those that the next
                frame can read, which is also the minimum. Prompted frames are always kept. A prompt
                on a dropped frame acts like one on a frame that was never tracked.
            feature_bytes: bound on the cached image features, in bytes.

        Raises:
            VideoError: the video cannot be read.
            InputError: an invalid `history`.
        """
        if not (history in ("full", "window") or (isinstance(history, int) and history >= 0)):
            raise InputError(f'history must be "full", "window" or a number, not {history!r}')
        images: Frames
        if isinstance(video_path, VideoState):
            images, features = video_path.images, video_path.features
            height, width = video_path.video_height, video_path.video_width
        else:
            images, height, width = load_video_frames(
                video_path=video_path,
                image_size=self.image_size,
                offload_video_to_cpu=offload_video_to_cpu,
                async_loading_frames=async_loading_frames,
                compute_device=self.device,
            )
            # Frames of a client's loader may change, so their features are not cached.
            own = isinstance(images, FrameLoader)
            ahead = self.plan.encoder_batch
            features = FeatureCache(images, feature_bytes, ahead) if own else None
        session = VideoState(
            images=images,
            num_frames=len(images),
            video_height=height,
            video_width=width,
            device=self.device,
            storage_device=torch.device("cpu") if offload_state_to_cpu else self.device,
            offload_video_to_cpu=offload_video_to_cpu,
            offload_state_to_cpu=offload_state_to_cpu,
            features=features,
            history=None if history == "full" else 0 if history == "window" else history,
        )
        self._get_image_feature(session, frame_idx=0, batch_size=1)
        return session

    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        inference_state: State,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> tuple[int, list[Any], Tensor]:
        """Prompt a new or existing object with clicks, a box, or both.

        On a tracked frame the clicks correct the tracked mask.

        Args:
            points: (x, y) `[P, 2]` in pixels of the video.
            labels: 1 for a click on the object, 0 for one on the background, `[P]`.
            clear_old_points: replace earlier points on this frame instead of adding to them.
            normalize_coords: False if coordinates are already fractions of the video's size.
            box: (x0, y0, x1, y1) in pixels of the video.

        Returns:
            The frame index, the ids of all objects, and their mask logits on the frame, float32
            `[O, 1, H, W]`.

        Raises:
            InputError: the prompt is invalid, or the video has no such frame.
        """
        result = tracking.add_points(
            self,
            as_session(inference_state),
            frame_idx,
            obj_id,
            points,
            labels,
            box,
            clear_old_points=clear_old_points,
            normalize_coords=normalize_coords,
        )
        return frame_idx, result.obj_ids, result.logits

    def add_new_points(self, *args: Any, **kwargs: Any) -> tuple[int, list[Any], Tensor]:
        """Call `add_new_points_or_box`; its older name."""
        return self.add_new_points_or_box(*args, **kwargs)

    @torch.inference_mode()
    def add_new_mask(
        self, inference_state: State, frame_idx: int, obj_id: Any, mask: Any
    ) -> tuple[int, list[Any], Tensor]:
        """Prompt an object with a mask.

        Args:
            mask: `[H, W]` of bool or numbers: nonzero is object. As in `sam2`, float tensors are
                thresholded at 0.5.

        Result and errors are those of `add_new_points_or_box`.
        """
        result = tracking.add_mask(self, as_session(inference_state), frame_idx, obj_id, mask)
        return frame_idx, result.obj_ids, result.logits

    @torch.inference_mode()
    def propagate_in_video_preflight(self, inference_state: State) -> None:
        """Encode prompted frames into memory; `propagate_in_video` calls this itself.

        Raises:
            StateError: there is no object, or one has no prompt.
        """
        tracking.commit_prompts(self, as_session(inference_state))

    @torch.inference_mode()
    def propagate_in_video(
        self,
        inference_state: State,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[int, list[Any], Tensor]]:
        """Track all objects as `propagate` does, with the results of `sam2`.

        Yields:
            The frame index, the ids of all objects, and their mask logits, float32 `[O, 1, H, W]`.
        """
        for result in self.propagate(
            inference_state, start_frame_idx, max_frame_num_to_track, reverse
        ):
            yield result.frame_idx, result.obj_ids, result.logits

    @torch.inference_mode()
    def propagate(
        self,
        inference_state: State,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        progress: Callable[..., Iterable[int]] | None = None,
    ) -> Iterator[FrameResult]:
        """Track all objects frame by frame, in one batch.

        An object that is removed during propagation is left out from the next frame on.

        Args:
            start_frame_idx: first frame; by default the first prompted one.
            max_frame_num_to_track: number of frames to track after it; by default all.
            reverse: track backward in time.
            progress: wraps the range of frames, by default `tqdm`.

        Raises:
            StateError: there is no object, or one has no prompt.
            InputError: the video has no frame `start_frame_idx`, or `max_frame_num_to_track` is
                negative.
            VideoError: a frame cannot be read; all earlier frames have been yielded.
            torch.OutOfMemoryError: one object alone does not fit on the device.
        """
        self.propagate_in_video_preflight(inference_state)
        yield from tracking.propagate(
            self,
            as_session(inference_state),
            start_frame_idx,
            max_frame_num_to_track,
            reverse,
            progress or tqdm,
        )

    @torch.inference_mode()
    def clear_all_prompts_in_frame(
        self, inference_state: State, frame_idx: int, obj_id: Any, need_output: bool = True
    ) -> tuple[int, list[Any], Tensor] | None:
        """Remove an object's prompts on a frame.

        Returns:
            The result of `add_new_points_or_box`; None without `need_output`.

        Raises:
            StateError: there is no such object.
        """
        session = as_session(inference_state)
        tracking.clear_prompts(session, frame_idx, session.get_object(obj_id))
        if not need_output:
            return None
        is_cond = tracking.pending_is_cond(session, frame_idx)
        result = current_result(self, session, frame_idx, is_cond)
        return frame_idx, result.obj_ids, result.logits

    @torch.inference_mode()
    def remove_object(
        self,
        inference_state: State,
        obj_id: Any,
        strict: bool = False,
        need_output: bool = True,
    ) -> tuple[list[Any], list[tuple[int, Tensor]]]:
        """Remove an object.

        Args:
            strict: raise if there is no such object.

        Returns:
            The remaining ids, and, with `need_output`, the remaining objects' mask logits
            `[O, 1, H, W]` on each frame where the object was prompted.

        Raises:
            StateError: there is no such object, with `strict`.
        """
        session = as_session(inference_state)
        updated = tracking.remove_object(self, session, obj_id, strict, need_output)
        return session.obj_ids, [(result.frame_idx, result.logits) for result in updated]

    @torch.inference_mode()
    def reset_state(self, inference_state: State) -> None:
        """Remove all objects; the video stays open."""
        as_session(inference_state).drop_all_objects()


class SAM2VideoPredictorVOS(SAM2VideoPredictor):
    """`SAM2VideoPredictor` that compiles the image encoder and the tracking step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"plan": Plan(compile=True), **kwargs})
