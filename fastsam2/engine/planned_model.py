"""SAM 2 with an execution plan."""

from __future__ import annotations

from fastsam2.config import SAM2Config
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2_kernels.dispatch import Impl

__all__ = ["PlannedModel"]


class PlannedModel(SAM2Base):
    """SAM 2 that runs by an execution plan.

    Args:
        config: sizes and options.
        plan: dtype, kernels, compilation, CUDA graphs.
    """

    def __init__(self, config: SAM2Config, plan: Plan = Plan()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.runner = Runner(plan)

    @property
    def plan(self) -> Plan:
        """The plan. Setting one discards compiled functions and CUDA graphs."""
        return self.runner.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.runner = Runner(plan)

    @property
    def impl(self) -> Impl:
        return self.plan.impl
