"""What a model runs on each frame, made ready as its plan says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.compile import Compiled
from fastsam2.engine.runtime.cuda_graphs import CudaRecorder, Graphed, Recorder
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["Runner", "ready"]

P = ParamSpec("P")
T = TypeVar("T")


class _Made(NamedTuple):
    parts: tuple[object, ...]
    options: tuple[object, ...]
    run: Callable[..., Any]

    def of(self, parts: tuple[object, ...], options: tuple[object, ...]) -> bool:
        same = all(a is b for a, b in zip(self.parts, parts, strict=True))
        return same and self.options == options


class Runner:
    """The functions of one model, each made ready once, and anew when its parts change.

    A copy of the model begins without any.

    Args:
        plan: how they are to run.
        recorder: what records their graphs.
        options: of `torch.compile`.
    """

    def __init__(
        self, plan: Plan, recorder: Callable[[], Recorder] = CudaRecorder, **options: Any
    ) -> None:
        self.plan = plan
        self._recorder = recorder
        self._options = options
        self._made: dict[str, _Made] = {}

    def __call__(
        self,
        name: str,
        function: Callable[P, T],
        parts: tuple[object, ...],
        options: tuple[object, ...] = (),
    ) -> Callable[P, T]:
        """`function`, made ready.

        Args:
            parts: it does the same as long as these are the same objects,
            options: and these are equal.
        """
        made = self._made.get(name)
        if made is None or not made.of(parts, options):
            made = self._made[name] = _Made(parts, options, self._make(function))
        return made.run

    def _make(self, function: Callable[P, T]) -> Callable[P, T]:
        if self.plan.compile:
            function = Compiled(function, **self._options)
        # Graphs of one recorder share memory, and the encoder runs beside the tracker.
        return Graphed(function, self._recorder()) if self.plan.graphs else function

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Runner, self.plan, self._recorder, **self._options), ()


def ready(
    model: SAM2Base,
    name: str,
    function: Callable[P, T],
    parts: tuple[object, ...],
    options: tuple[object, ...] = (),
) -> Callable[P, T]:
    """`function`, made ready if the model has a plan; see `Runner`."""
    functions: Runner | None = getattr(model, "functions", None)
    return function if functions is None else functions(name, function, parts, options)
