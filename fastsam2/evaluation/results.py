"""What an evaluation finds: measures by object and frame, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fastsam2.evaluation.metrics import Floats, Mask, score_auc

__all__ = ["Means", "ObjectResult", "SequenceResult", "mean_of"]


@dataclass(frozen=True)
class Means:
    """Measures of one or more objects, each in 0..1; NaN where nothing could be measured.

    Attributes:
        j: region similarity.
        f: boundary accuracy.
        score_auc: how well the object score tells frames with the object from those without it.
        num_objects: how many objects.
    """

    j: float
    f: float
    score_auc: float
    num_objects: int

    @property
    def j_and_f(self) -> float:
        """The mean of J and F, by which DAVIS ranks."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """One object, frame by frame.

    Attributes:
        obj_id: its number in the annotations.
        prompt_frame: the first frame it is on, on which it was prompted.
        j: region similarity, float64 `[T]`.
        f: boundary accuracy, float64 `[T]`.
        score: probability that it is visible, by the model, float64 `[T]`; NaN where not known,
            such as before it was prompted.
        present: whether it is visible, by the annotations, bool `[T]`.
    """

    obj_id: int
    prompt_frame: int
    j: Floats
    f: Floats
    score: Floats
    present: Mask

    @property
    def counted(self) -> slice:
        """The frames that go into the means: after the prompted one, and without the last.

        DAVIS gives away the first frame and, for semi-supervised methods, does not measure the last
        one either (`all_gt_masks[:, 1:-1]` in `davis2017/evaluation.py` of davis2017-evaluation).
        It only knows objects that are on the first frame. For one that appears later, and is given
        away there, the frames before count as little as the frame itself.
        """
        return slice(self.prompt_frame + 1, len(self.j) - 1)

    @property
    def means(self) -> Means:
        """Means over the counted frames."""
        return mean_of([self])


@dataclass(frozen=True, eq=False)
class SequenceResult:
    """One sequence.

    Attributes:
        name: what it is called.
        objects: its objects, in the order in which they appear.
        num_frames: frames of the video.
        tracked_frames: those from the first prompt on.
        seconds: how long it took to open the video, to prompt and to track, down to masks in host
            memory; reading annotations and measuring is not in it.
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
    """Means of J and F over frames, then over objects, whatever sequence they are of, as in DAVIS.

    The AUC is that of all their counted frames together: most objects are on every frame, and have
    none of their own. An object with no frame that counts (it appears at the very end) is left out.
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
    """The mean of the values that are known; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
