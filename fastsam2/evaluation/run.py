"""Track the objects of an annotated video and measure the masks.

The protocol is the semi-supervised one of DAVIS: an object is prompted on the frame where it first
appears and tracked from there to the end of the video. Each pixel belongs to at most one object.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from fastsam2.data.writers import label_image
from fastsam2.errors import InputError, StateError
from fastsam2.evaluation.davis import DavisSequence
from fastsam2.evaluation.metrics import Mask, boundary_f, jaccard
from fastsam2.evaluation.results import ObjectResult, SequenceResult
from fastsam2.modeling.click_sampling import sample_box_points, sample_one_point_from_error_center

__all__ = ["PromptKind", "VideoPredictor", "check_prompt", "click_in", "evaluate"]

PromptKind = Literal["click", "box", "mask"]


class VideoPredictor(Protocol):
    """Methods of a video predictor used here; implemented by `sam2` and fastsam2."""

    def init_state(self, video_path: Any) -> Any: ...

    def add_new_points_or_box(
        self,
        inference_state: Any,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        *,
        box: Any = None,
    ) -> Any: ...

    def add_new_mask(self, inference_state: Any, frame_idx: int, obj_id: Any, mask: Any) -> Any: ...

    def propagate_in_video(
        self,
        inference_state: Any,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
    ) -> Iterator[tuple[int, Any, Any]]: ...


def evaluate(
    predictor: VideoPredictor, sequence: DavisSequence, prompt: PromptKind = "mask"
) -> SequenceResult:
    """Track all objects of a sequence and compare the masks with the annotations.

    Prompts are derived from the annotation of the frame on which an object first appears: `mask` is
    the annotation itself, `box` its tight bounding box (the corners are pixels of the object), and
    `click` the pixel farthest from its boundary. An object that appears later is added when
    tracking has reached that frame, so that earlier frames are not influenced by it.

    Args:
        predictor: video predictor whose state holds `obj_ids` and `output_dict_per_obj`, as in
            `sam2`.
        sequence: frames and annotations.
        prompt: `click`, `box` or `mask`.

    Raises:
        InputError: another kind of prompt.
        VideoError: frames or annotations cannot be read, or there are no objects.
        StateError: the predictor skips a frame.
    """
    kind = check_prompt(prompt)
    first = sequence.first_frames()
    prompts = [
        _Prompt.of(sequence.labels(frame_idx) == obj_id, frame_idx, obj_id, kind)
        for obj_id, frame_idx in first.items()
    ]
    objects = [_unmeasured(obj_id, first[obj_id], len(sequence)) for obj_id in first]
    tracked = _track(predictor, sequence, prompts)
    # Frames before the first object appears are not tracked; their result is empty.
    found = _Found(-1, np.zeros(sequence.size, np.uint8), {})
    begin, seconds = prompts[0].frame_idx, 0.0
    for frame_idx in range(len(sequence)):
        if frame_idx >= begin:
            clock = time.perf_counter()
            found = next(tracked, found)
            seconds += time.perf_counter() - clock
            if found.frame_idx != frame_idx:
                raise StateError(f"the predictor skipped frame {frame_idx} of {sequence.name}")
        truth = sequence.labels(frame_idx)
        for obj in objects:
            _measure(obj, frame_idx, truth, found)
    return SequenceResult(
        name=sequence.name,
        objects=tuple(objects),
        num_frames=len(sequence),
        tracked_frames=len(sequence) - begin,
        seconds=seconds,
    )


def check_prompt(prompt: str) -> PromptKind:
    """Return `prompt` if it is a known kind of prompt.

    Raises:
        InputError: it is not.
    """
    for kind in get_args(PromptKind):
        if prompt == kind:
            return kind
    raise InputError(f"unknown kind of prompt {prompt!r}: choose one of click, box, mask")


@dataclass(frozen=True, eq=False)
class _Found:
    """Result of tracking on one frame."""

    frame_idx: int
    labels: Any  #: object ids, uint8 `[H, W]`
    scores: dict[int, float]


def _unmeasured(obj_id: int, prompt_frame: int, length: int) -> ObjectResult:
    j, f, score = np.full((3, length), math.nan)
    return ObjectResult(obj_id, prompt_frame, j, f, score, np.zeros(length, np.bool_))


def _measure(obj: ObjectResult, frame_idx: int, truth_labels: Any, found: _Found) -> None:
    """Fill in the measures of one object on one frame."""
    truth, mask = truth_labels == obj.obj_id, found.labels == obj.obj_id
    obj.j[frame_idx] = jaccard(truth, mask)
    obj.f[frame_idx] = boundary_f(truth, mask)
    obj.score[frame_idx] = found.scores.get(obj.obj_id, math.nan)
    obj.present[frame_idx] = truth.any()


@dataclass(frozen=True, eq=False)
class _Prompt:
    """Prompt for one object: a mask, a box, or points with labels."""

    frame_idx: int
    obj_id: int
    mask: Mask | None = None
    box: Any = None
    points: Any = None
    labels: Any = None

    @classmethod
    def of(cls, mask: Mask, frame_idx: int, obj_id: int, kind: PromptKind) -> _Prompt:
        if kind == "mask":
            return cls(frame_idx, obj_id, mask=mask)
        if kind == "box":
            corners, _ = sample_box_points(torch.from_numpy(mask)[None, None], noise=0.0)
            return cls(frame_idx, obj_id, box=corners.flatten().numpy())
        points = np.array([click_in(mask)], np.float32)
        return cls(frame_idx, obj_id, points=points, labels=np.ones(1, np.int32))

    def give(self, predictor: VideoPredictor, state: Any) -> None:
        if self.mask is not None:
            predictor.add_new_mask(state, self.frame_idx, self.obj_id, self.mask)
        else:
            predictor.add_new_points_or_box(
                state,
                self.frame_idx,
                self.obj_id,
                points=self.points,
                labels=self.labels,
                box=self.box,
            )


def _track(
    predictor: VideoPredictor, sequence: DavisSequence, prompts: list[_Prompt]
) -> Iterator[_Found]:
    """Yield the result of each frame from the first prompt on.

    Propagation stops where a new object appears, and continues with it added.
    """
    state = predictor.init_state(str(sequence.folder))
    starts = sorted({prompt.frame_idx for prompt in prompts})
    for start, following in zip(starts, [*starts[1:], len(sequence)], strict=True):
        for prompt in prompts:
            if prompt.frame_idx == start:
                prompt.give(predictor, state)
        for frame_idx, obj_ids, masks in predictor.propagate_in_video(
            state, start_frame_idx=start, max_frame_num_to_track=following - 1 - start
        ):
            logits = masks.float().cpu().numpy()[:, 0]
            labels = label_image(dict(zip(obj_ids, logits, strict=True)))
            yield _Found(frame_idx, labels, _object_scores(state, frame_idx))


def click_in(mask: Mask) -> tuple[int, int]:
    """Return the pixel (x, y) of bool `[H, W]` farthest from the outside of the mask.

    Pixels beyond the image count as outside. The first of several such pixels is returned.

    Raises:
        InputError: the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise InputError("cannot place a click: the mask is empty")
    top, left = int(rows[0]), int(columns[0])
    # Everything around the bounding box is outside, so the cropped mask gives the same distances.
    box = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    points, _ = sample_one_point_from_error_center(torch.from_numpy(box)[None, None], None)
    x, y = points.flatten().tolist()
    return left + int(x), top + int(y)


def _object_scores(state: Any, frame_idx: int) -> dict[int, float]:
    """Predicted probability that each object is visible."""
    scores = {}
    for index, obj_id in enumerate(state["obj_ids"]):
        outputs = state["output_dict_per_obj"][index]
        for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
            if frame_idx in outputs[kind]:
                logit = outputs[kind][frame_idx]["object_score_logits"]
                # In float32 all logits above about 17 would give exactly 1.
                scores[obj_id] = float(logit.double().sigmoid())
                break
    return scores
