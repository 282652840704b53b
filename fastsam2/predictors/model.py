"""The model of the video predictors."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastsam2.engine.feature_cache import Encode
from fastsam2.engine.fused.image_encoder import fused_image_encoder
from fastsam2.engine.memory_pool import Pools
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.engine.track_step import TrackStep, track_step
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.dict_state import as_session

__all__ = ["FastPaths", "VideoModel"]


@dataclass(frozen=True)
class FastPaths:
    """Fast paths of a model, looked up once per public call."""

    encode: Encode  #: fused image encoder, or the model's own `forward_image`
    step: TrackStep | None  #: None if the model's own `track_step` must run
    options: tuple[object, ...]  #: of the model, when they were looked up

    def current(self, model: VideoModel) -> FastPaths:
        """These fast paths, or those for other options if a client has set some meanwhile."""
        return self if track_step.options(model) == self.options else model.fast_paths()


class VideoModel(SAM2Base):
    """SAM 2 with the options of tracking, which are read at each call.

    Args:
        fill_hole_area: fill holes of at most this many pixels in the S / 4 wide masks.
        non_overlap_masks: set each pixel in at most one mask.
        clear_non_cond_mem_around_input: drop tracked frames near a corrected one.
        add_all_frames_to_correct_as_cond: corrected frames become conditioning frames.
        memory_dtype: dtype of memory maps.
        kwargs: arguments of `SAM2Base`.
    """

    pools: Pools  #: memory pools of sessions

    def __init__(
        self,
        fill_hole_area: int = 0,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        *,
        memory_dtype: torch.dtype = torch.bfloat16,
        plan: Plan = Plan(),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fill_hole_area = fill_hole_area
        self.non_overlap_masks = non_overlap_masks
        self.clear_non_cond_mem_around_input = clear_non_cond_mem_around_input
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        self.plan = plan.with_compiled_encoder() if self.compile_image_encoder else plan
        self.memory_dtype = memory_dtype
        self.pools = Pools()

    @property
    def plan(self) -> Plan:
        """The execution plan. Setting it discards compiled functions and CUDA graphs."""
        return self.runner.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.runner = Runner(plan)
        self.impl = plan.impl

    def fast_paths(self) -> FastPaths:
        """Look up the fast paths for the model's current parts and options."""
        encode = fused_image_encoder(self) or self.forward_image
        return FastPaths(encode, track_step(self), track_step.options(self))

    def _get_image_feature(
        self, inference_state: MutableMapping[str, Any], frame_idx: int, batch_size: int
    ) -> tuple[Tensor, dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Return the features of a frame for B objects, from the state's cache or newly encoded.

        Returns:
            The image `[B, 3, S, S]`, the image encoder's `backbone_fpn` and `vision_pos_enc`, and
            features, positions and sizes of each level, as `track_step` takes them.
        """
        encode = fused_image_encoder(self) or self.forward_image
        image, encoded = as_session(inference_state).encoded_frame(encode, frame_idx)
        expanded: dict[str, Any] = {
            key: [x.expand(batch_size, -1, -1, -1) for x in encoded[key]]
            for key in ("backbone_fpn", "vision_pos_enc")
        }
        return (
            image.expand(batch_size, -1, -1, -1),
            *self._prepare_backbone_features(expanded),
        )
