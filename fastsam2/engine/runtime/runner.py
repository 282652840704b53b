"""Compilation and recording of tensor functions by a plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

from fastsam2.engine.plan import STEADY_FRAMES, Plan
from fastsam2.engine.runtime.compile import Compiled, CompiledLater
from fastsam2.engine.runtime.cuda_graphs import CudaRecorder, Graphed, Recorder

__all__ = ["Runner"]

Part = Literal["encoder", "step"]
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

    def prepare(self, part: Part, function: Callable[P, T]) -> Callable[P, T] | None:
        """Compile or record a part of the model; None if the plan does neither."""
        plan = self.plan
        if plan.compile is True:
            return self._recorded(part, Compiled(function, **self._options))
        if plan.compile == part:
            compiled = Compiled(function, **self._options)
            return CompiledLater(
                self._recorded(part, function),
                compiled,
                self._recorded(part, compiled),
                self._calls(part),
            )
        return self._recorded(part, function) if plan.graphs else None

    def _recorded(self, part: Part, function: Callable[P, T]) -> Callable[P, T]:
        """Record a function if the plan does so."""
        if not self.plan.graphs:
            return function
        after = self._calls(part) if self.plan.graphs == "steady" else 0
        # Graphs of one recorder share memory, and the encoder runs concurrently with the tracker.
        return Graphed(function, self._recorder(), after)

    def _calls(self, part: Part) -> int:
        """Return the calls of a part in `STEADY_FRAMES` frames."""
        batch = self.plan.encoder_batch if part == "encoder" else 1
        return STEADY_FRAMES // max(1, batch)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Runner, self.plan, self._recorder, **self._options), ()
