"""Tracking made-up videos, so that the first real one finds all that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from fastsam2.engine.plan import Plan
from fastsam2.errors import InputError
from fastsam2.predictors.results import FrameResult

__all__ = ["warmup"]


class Predictor(Protocol):
    """What is used of a video predictor."""

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
    """See `SAM2VideoPredictor.warmup`."""
    height, width = size
    if min(n_objects, height, width) < 1:
        raise InputError(f"warmup needs objects and pixels, not {n_objects} on {height} x {width}")
    # Both ways in which frames are encoded: one, and as many as ahead.
    frames = 2 + predictor.plan.encoder_batch
    video = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)
    for objects in progress(_counts(n_objects, predictor.plan), desc="warm-up"):
        state = predictor.init_state(video)
        for obj_id in range(objects):
            box = [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]
            predictor.add_new_points_or_box(state, 0, obj_id, box=box)
        for result in predictor.propagate(state, progress=lambda frames, desc: frames):
            # All forms in which it can be read.
            _ = result.logits, result.boxes, result.rle(), result.to_host().labels


def _counts(n_objects: int, plan: Plan) -> list[int]:
    """The largest first: its memory then serves all."""
    if not plan.graphs:
        return sorted({1, n_objects}, reverse=True)
    return [1 << k for k in range((n_objects - 1).bit_length(), -1, -1)]
