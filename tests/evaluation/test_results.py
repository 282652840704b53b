from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastsam2.evaluation.results import ObjectResult, SequenceResult, mean_of


def _object(
    j: list[float], f: list[float], *, prompt_frame: int = 0, **kwargs: Any
) -> ObjectResult:
    score = np.array(kwargs.get("score", [0.5] * len(j)))
    present = np.array(kwargs.get("present", [True] * len(j)))
    return ObjectResult(1, prompt_frame, np.array(j), np.array(f), score, present)


def test_the_first_and_the_last_frame_do_not_count() -> None:
    means = _object([1, 0.5, 0.7, 0], [0, 0.3, 0.5, 1]).means
    assert (means.j, means.f) == pytest.approx((0.6, 0.4))
    assert means.j_and_f == pytest.approx(0.5)


def test_frames_before_an_object_do_not_count() -> None:
    means = _object([1, 1, 1, 0.2, 0.4, 0], [1, 1, 1, 0.6, 0.8, 0], prompt_frame=2).means
    assert (means.j, means.f) == pytest.approx((0.3, 0.7))


def test_objects_weigh_the_same_however_long_and_wherever() -> None:
    short, long = _object([1, 0, 1], [1, 0, 1]), _object([1] * 9, [0.5] * 9)
    sequences = [
        SequenceResult("a", (short,), 3, 3, 1.0),
        SequenceResult("b", (long, long), 9, 9, 1.0),
    ]
    assert [sequence.means.j for sequence in sequences] == [0, 1]
    means = mean_of(obj for sequence in sequences for obj in sequence.objects)
    assert (means.j, means.f, means.num_objects) == pytest.approx((2 / 3, 1 / 3, 3))


def test_an_object_at_the_very_end_has_no_measures() -> None:
    late = _object([1, 1, 1], [1, 1, 1], prompt_frame=2)
    assert math.isnan(late.means.j)
    assert math.isnan(late.means.j_and_f)
    assert mean_of([late, _object([0, 0.5, 0], [0, 0.5, 0])]).j == 0.5


def test_the_auc_is_over_all_counted_frames() -> None:
    here = _object([1] * 4, [1] * 4, score=[0.0, 0.9, 0.4, 0.0])
    gone = _object([1] * 4, [1] * 4, score=[1, 0.5, 0.1, 1], present=[True, False, False, True])
    assert math.isnan(here.means.score_auc)
    # 0.9 beats 0.5 and 0.1, 0.4 beats 0.1.
    assert mean_of([here, gone]).score_auc == 3 / 4
    assert math.isnan(mean_of([]).score_auc)
