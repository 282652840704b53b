"""Warm-up on synthetic videos, so that the first real one neither compiles nor records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from fastsam2.engine.block_tables import batch_size
from fastsam2.engine.plan import Plan
from fastsam2.errors import InputError
from fastsam2.predictors.results import FrameResult

__all__ = ["warmup"]


class Predictor(Protocol):
    """The methods of a video predictor that `warmup` calls."""

    @property
    def plan(self) -> Plan: ...

    def init_state(self, video_path: Any) -> Any: ...

    def add_new_points_or_box(
        self, inference_state: Any, frame_idx: int, obj_id: Any, *, box: Any
    ) -> Any: ...

    def propagate(self, inference_state: Any, *, progress: Any) -> Iterable[FrameResult]: ...


def warmup(
    predictor: Predictor,
    n_objects: int,
    size: tuple[int, int],
    progress: Callable[..., Iterable[int]],
) -> None:
    """Run the warm-up; see `SAM2VideoPredictor.warmup`."""
    height, width = size
    if min(n_objects, height, width) < 1:
        raise InputError(
            f"n_objects and size must be positive, not {n_objects} and ({height}, {width})"
        )
    # Enough frames to encode both a single frame and a batch ahead.
    frames = 2 + predictor.plan.encoder_batch
    video = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)
    for objects in progress(_counts(n_objects, predictor.plan), desc="warm-up"):
        state = predictor.init_state(video)
        for obj_id in range(objects):
            box = [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]
            predictor.add_new_points_or_box(state, 0, obj_id, box=box)
        for result in predictor.propagate(state, progress=lambda frames, desc: frames):
            # Each form of the result launches different kernels.
            _ = result.logits, result.boxes, result.rle(), result.to_host().labels


def _counts(n_objects: int, plan: Plan) -> list[int]:
    """Return the numbers of objects to run, largest first, as its memory serves all others."""
    if plan.graphs is not True:
        return sorted({1, n_objects}, reverse=True)
    return sorted({batch_size(n) for n in range(1, n_objects + 1)}, reverse=True)
