"""Results of an evaluation: measures per object and frame, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fastsam2.evaluation.metrics import Floats, Mask, score_auc

__all__ = ["Means", "ObjectResult", "SequenceResult", "mean_of"]


@dataclass(frozen=True)
class Means:
    """Measures of one or more objects, each in 0..1; NaN if undefined.

    Attributes:
        j: region similarity.
        f: boundary accuracy.
        score_auc: area under the ROC curve of the object score; see `metrics.score_auc`.
        num_objects: number of objects.
    """

    j: float
    f: float
    score_auc: float
    num_objects: int

    @property
    def j_and_f(self) -> float:
        """Mean of J and F, the ranking measure of DAVIS."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """Measures of one object on each frame.

    Attributes:
        obj_id: object id in the annotations.
        prompt_frame: first frame with the object, on which it was prompted.
        j: region similarity, float64 `[T]`.
        f: boundary accuracy, float64 `[T]`.
        score: predicted probability that the object is visible, float64 `[T]`; NaN if unknown, such
            as before the prompt.
        present: True if the object is annotated, bool `[T]`.
    """

    obj_id: int
    prompt_frame: int
    j: Floats
    f: Floats
    score: Floats
    present: Mask

    @property
    def counted(self) -> slice:
        """Frames that enter the means: those after the prompted frame, except the last.

        DAVIS excludes the prompted first frame and, for semi-supervised methods, the last one
        (`all_gt_masks[:, 1:-1]` in `davis2017/evaluation.py` of davis2017-evaluation). Its objects
        are all on the first frame; for an object that appears later, the frames up to its prompt
        are excluded.
        """
        return slice(self.prompt_frame + 1, len(self.j) - 1)

    @property
    def means(self) -> Means:
        """Means over the counted frames."""
        return mean_of([self])


@dataclass(frozen=True, eq=False)
class SequenceResult:
    """Measures of one sequence.

    Attributes:
        name: name of the sequence.
        objects: objects in order of appearance.
        num_frames: number of frames of the video.
        tracked_frames: number of frames from the first prompt on.
        seconds: time to open the video, prompt and track, including the copy of masks to the host;
            excludes reading annotations and measuring.
    """

    name: str
    objects: tuple[ObjectResult, ...]
    num_frames: int
    tracked_frames: int
    seconds: float

    @property
    def means(self) -> Means:
        """Means over the objects."""
        return mean_of(self.objects)


def mean_of(objects: Iterable[ObjectResult]) -> Means:
    """Average J and F over frames, then over the objects of all sequences, as DAVIS does.

    The AUC is computed over the counted frames of all objects together, since it is undefined for
    an object that is present on every frame. Objects without counted frames (they appear at the
    very end) are ignored.
    """
    found = list(objects)
    pooled = [(obj.score[obj.counted], obj.present[obj.counted]) for obj in found]
    scores = np.concatenate([np.empty(0), *(score for score, _ in pooled)])
    present = np.concatenate([np.empty(0, np.bool_), *(truth for _, truth in pooled)])
    return Means(
        j=_mean([_mean(obj.j[obj.counted]) for obj in found]),
        f=_mean([_mean(obj.f[obj.counted]) for obj in found]),
        score_auc=score_auc(scores, present),
        num_objects=len(found),
    )


def _mean(values: Floats | list[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
