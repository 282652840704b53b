"""Compilation and recording of tensor functions by a plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.compile import Compiled
from fastsam2.engine.runtime.cuda_graphs import CudaRecorder, Graphed, Recorder

__all__ = ["Runner"]

P = ParamSpec("P")
T = TypeVar("T")


class Runner:
    """Compiles functions, records them as CUDA graphs, or returns them unchanged.

    Args:
        plan: `compile` and `graphs` select which.
        recorder: creates a recorder of graphs.
        options: passed to `torch.compile`.
    """

    def __init__(
        self, plan: Plan, recorder: Callable[[], Recorder] = CudaRecorder, **options: Any
    ) -> None:
        self.plan = plan
        self._recorder = recorder
        self._options = options

    def prepare(
        self, part: Literal["encoder", "step"], function: Callable[P, T]
    ) -> Callable[P, T] | None:
        """Compile or record a part of the model; None if the plan does neither."""
        compiles = self.plan.compile in (True, part)
        if not (compiles or self.plan.graphs):
            return None
        if compiles:
            function = Compiled(function, **self._options)
        # Graphs of one recorder share memory, and the encoder runs concurrently with the tracker.
        return Graphed(function, self._recorder()) if self.plan.graphs else function

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Runner, self.plan, self._recorder, **self._options), ()
