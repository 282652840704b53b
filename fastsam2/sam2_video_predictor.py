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
from fastsam2.errors import InputError
from fastsam2.predictors import tracking
from fastsam2.predictors.building import build_tracker
from fastsam2.predictors.dict_state import as_session
from fastsam2.predictors.frame_outputs import current_result
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import VideoSession
from fastsam2.predictors.warmup import warmup
from fastsam2.utils.misc import load_video_frames

__all__ = ["SAM2VideoPredictor"]

#: What `init_state` returned, or a dict of a client's own making with the same keys.
State = MutableMapping[str, Any]


class SAM2VideoPredictor(VideoModel):
    """SAM 2 for videos: prompt objects on any frame, propagate, correct, propagate again.

    All state is in the session that `init_state` returns, so one predictor serves many videos.
    """

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
        """The predictor of a Hugging Face repository, short name or local path.

        Keywords go to `build_sam2_video_predictor_hf`.
        """
        return build_tracker(cls, *resolve_model(model_id), **kwargs)

    def warmup(
        self,
        n_objects: int = 1,
        size: tuple[int, int] = (720, 1280),
        progress: Callable[..., Iterable[int]] | None = None,
    ) -> None:
        """Compile, record and load what frames need, so that none of them waits for it.

        What is compiled is kept on disk, and found there by the next process.

        Args:
            n_objects: as many as there will be in a video, at most.
            size: (height, width) of the videos.
            progress: wraps the numbers of objects that are tried, by default `tqdm`.

        Raises:
            InputError: numbers below 1.
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
    ) -> VideoSession:
        """Open a video.

        Args:
            video_path: a video file or its bytes, a folder of images, a list of paths, PIL images
                or arrays, a `uint8 [T, H, W, 3]` array, or an iterator of frames; or what this
                method returned, for another session on the same video, which shares its frames and
                features.
            offload_video_to_cpu: hand frames out on the CPU and move each when it is needed. In
                either case frames are decoded when they are needed, and never all on the device.
            offload_state_to_cpu: keep masks on the CPU from the start. Memory maps stay on the
                device as long as frames can read them, and move to the CPU then, in either case.
            async_loading_frames: start to load frames in the background.
            history: number of tracked frames, those passed last, whose outputs are remembered.
                `"full"`: all, so that any frame can be corrected and tracked from again.
                `"window"`: those that the next frame can read, which is also the minimum. Prompted
                frames are always remembered. A prompt on a forgotten frame acts like one on a frame
                that was never tracked.
            feature_bytes: bound on the image features that are kept.

        Raises:
            VideoError: it cannot be read.
            InputError: a `history` that makes no sense.
        """
        if not (history in ("full", "window") or (isinstance(history, int) and history >= 0)):
            raise InputError(f'history must be "full", "window" or a number, not {history!r}')
        images: Frames
        if isinstance(video_path, VideoSession):
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
            # The frames of other loaders, which clients put in the place of ours, may change.
            own = isinstance(images, FrameLoader)
            ahead = self.plan.encoder_batch
            features = FeatureCache(images, feature_bytes, ahead) if own else None
        session = VideoSession(
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
        """Prompt an object, new or known, with clicks, a box, or both.

        On a frame that has been tracked the clicks correct what was found.

        Args:
            points: (x, y) `[P, 2]` in pixels of the video.
            labels: 1 for a click on the object, 0 for one beside it, `[P]`.
            clear_old_points: replace earlier points on this frame instead of adding to them.
            normalize_coords: False if coordinates are fractions of the video's size already.
            box: (x0, y0, x1, y1) in pixels of the video.

        Returns:
            The frame, the ids of all objects, and their mask logits there, float32 `[O, 1, H, W]`.

        Raises:
            InputError: a prompt that makes no sense, or a frame that is not there.
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
        """The older name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    @torch.inference_mode()
    def add_new_mask(
        self, inference_state: State, frame_idx: int, obj_id: Any, mask: Any
    ) -> tuple[int, list[Any], Tensor]:
        """Prompt an object with a mask `[H, W]`; returns and raises as `add_new_points_or_box`."""
        result = tracking.add_mask(self, as_session(inference_state), frame_idx, obj_id, mask)
        return frame_idx, result.obj_ids, result.logits

    @torch.inference_mode()
    def propagate_in_video_preflight(self, inference_state: State) -> None:
        """Encode prompted frames into memory; `propagate_in_video` does so itself.

        Raises:
            StateError: an object, or all of them, has no prompt.
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
        """As `propagate`, in the form of `sam2`.

        Yields:
            The frame, the ids of all objects, and their mask logits, float32 `[O, 1, H, W]`.
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
        """Track all objects, frame after frame, in one batch.

        An object that is removed meanwhile is left out from the next frame on.

        Args:
            start_frame_idx: where to begin; by default at the first prompted frame.
            max_frame_num_to_track: how many frames to go beyond that; by default to the end.
            reverse: go backward in time.
            progress: wraps the range of frames, by default `tqdm`.

        Raises:
            StateError: an object, or all of them, has no prompt.
            InputError: the video has no frame `start_frame_idx`.
            VideoError: a frame cannot be read; everything before it has been yielded.
            torch.OutOfMemoryError: one object alone is too much for the device.
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
        """Take back an object's prompts on a frame.

        Returns:
            As `add_new_points_or_box`; None without `need_output`.

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
        """Forget an object.

        Args:
            strict: raise if there is no such object.

        Returns:
            The remaining ids, and, with `need_output`, the remaining objects' mask logits
            `[O, 1, H, W]` on each frame where it had been prompted.

        Raises:
            StateError: no such object, with `strict`.
        """
        session = as_session(inference_state)
        updated = tracking.remove_object(self, session, obj_id, strict, need_output)
        return session.obj_ids, [(result.frame_idx, result.logits) for result in updated]

    @torch.inference_mode()
    def reset_state(self, inference_state: State) -> None:
        """Forget all objects; the video stays open."""
        as_session(inference_state).drop_all_objects()
