"""The model as the predictors of videos take it."""

from __future__ import annotations

import torch

from fastsam2.config import SAM2Config
from fastsam2.engine.memory_pool import Pools
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2_kernels.dispatch import Impl

__all__ = ["VideoModel"]


class VideoModel(SAM2Base):
    """SAM 2 with the options of tracking, which are read at each call."""

    fill_hole_area: int  #: fill holes of at most this many pixels in the S / 4 wide masks
    non_overlap_masks: bool  #: give each pixel to one object only
    clear_non_cond_mem_around_input: bool  #: forget tracked frames near a corrected one
    add_all_frames_to_correct_as_cond: bool  #: corrected frames become conditioning frames
    memory_dtype: torch.dtype  #: in which spatial memory is kept
    functions: Runner  #: what runs on each frame, as the plan says
    pools: Pools  #: where sessions bring what frames read

    def __init__(
        self,
        config: SAM2Config,
        memory_dtype: torch.dtype = torch.bfloat16,
        plan: Plan = Plan(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(config)
        self.memory_dtype = memory_dtype
        self.functions = Runner(plan)
        self.pools = Pools()

    @property
    def plan(self) -> Plan:
        """How it runs. What an earlier plan has compiled and recorded goes with it."""
        return self.functions.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.functions = Runner(plan)

    @property
    def impl(self) -> Impl:
        return self.plan.impl
