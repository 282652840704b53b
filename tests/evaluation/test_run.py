"""Complete evaluations with predictors of known accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage

from fastsam2.errors import InputError, StateError, VideoError
from fastsam2.evaluation.davis import DavisSequence, open_davis
from fastsam2.evaluation.run import PromptKind, click_in, evaluate
from tests.evaluation.folders import HEIGHT, WIDTH, Labels, Oracle, squares, write_davis
from tests.support import Pair


def _sequence(folder: Path, labels: Labels) -> DavisSequence:
    return open_davis(write_davis(folder, {"bear": labels})).sequence("bear")


@pytest.mark.parametrize("prompt", ["click", "box", "mask"])
def test_the_truth_is_perfect(tmp_path: Path, prompt: PromptKind) -> None:
    labels = squares() + squares(obj_id=2, last=3)
    result = evaluate(Oracle({"bear": labels}), _sequence(tmp_path, labels), prompt)
    assert (result.name, result.num_frames, result.tracked_frames) == ("bear", 6, 6)
    assert result.seconds > 0
    assert [obj.obj_id for obj in result.objects] == [1, 2]
    for obj in result.objects:
        np.testing.assert_array_equal(obj.j, np.ones(6))
        np.testing.assert_array_equal(obj.f, np.ones(6))
        np.testing.assert_array_equal(obj.present, (labels == obj.obj_id).any(axis=(1, 2)))
        np.testing.assert_allclose(obj.score, 1 / (1 + np.exp(np.where(obj.present, -4.0, 4.0))))
    assert result.means.j_and_f == result.means.score_auc == 1


def test_nothing_is_right_where_there_is_nothing(tmp_path: Path) -> None:
    labels = squares(last=3)
    oracle = Oracle({"bear": labels}, finds=False)
    result = evaluate(oracle, _sequence(tmp_path, labels))
    np.testing.assert_array_equal(result.objects[0].j, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(result.objects[0].f, [0, 0, 0, 0, 1, 1])
    assert result.means.j == result.means.f == 1 / 4


class _Everything(Oracle):
    """Finds each object on every pixel, the second with a higher logit."""

    def logits(self, truth: Labels, obj_id: int) -> Any:
        return np.full((HEIGHT, WIDTH), float(obj_id), np.float32)


def test_a_pixel_is_of_one_object(tmp_path: Path) -> None:
    labels = squares() + squares(obj_id=2, last=3)
    result = evaluate(_Everything({"bear": labels}), _sequence(tmp_path, labels))
    first, second = result.objects
    np.testing.assert_array_equal(first.j, np.zeros(6))
    # A mask of an absent object is wrong.
    np.testing.assert_allclose(second.j, np.where(second.present, 36 / (HEIGHT * WIDTH), 0))


def test_prompts_come_from_the_first_mask(tmp_path: Path) -> None:
    labels = squares() + squares(obj_id=2)
    sequence = _sequence(tmp_path, labels)
    given: dict[str, list[Any]] = {}
    for kind in ("click", "box", "mask"):
        oracle = Oracle({"bear": labels})
        evaluate(oracle, sequence, kind)  # type: ignore[arg-type]
        given[kind] = oracle.calls
    # The first of the 2 x 2 central pixels of the 6 x 6 square.
    assert given["click"] == [(0, 1, ([[5, 4]], [1], None)), (0, 2, ([[5, 12]], [1], None)), (0, 5)]
    assert given["box"] == [
        (0, 1, (None, None, [3, 2, 8, 7])),
        (0, 2, (None, None, [3, 10, 8, 15])),
        (0, 5),
    ]
    assert [call[:2] for call in given["mask"]] == [(0, 1), (0, 2), (0, 5)]
    for _, obj_id, mask in given["mask"][:2]:
        np.testing.assert_array_equal(mask, labels[0] == obj_id)


def test_objects_are_added_where_they_appear(tmp_path: Path) -> None:
    labels = squares(8, first=1) + squares(8, first=4, obj_id=2) + squares(8, first=4, obj_id=3)
    oracle = Oracle({"bear": labels})
    result = evaluate(oracle, _sequence(tmp_path, labels), "box")
    order = [call if len(call) == 2 else call[:2] for call in oracle.calls]
    # Frames 1 to 3, then 4 to 7 with all objects.
    assert order == [(1, 1), (1, 2), (4, 2), (4, 3), (4, 3)]
    assert [(obj.obj_id, obj.prompt_frame) for obj in result.objects] == [(1, 1), (2, 4), (3, 4)]
    assert [obj.counted for obj in result.objects] == [slice(2, 7), slice(5, 7), slice(5, 7)]
    np.testing.assert_array_equal(np.isnan(result.objects[1].score), np.arange(8) < 4)
    assert result.tracked_frames == 7
    assert result.means.j_and_f == 1


def test_the_deepest_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = scipy.ndimage.gaussian_filter(rng.normal(size=(30, 40)), 3) > 0.05
        depth = scipy.ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        x, y = click_in(mask)
        assert (x, y) == np.unravel_index(depth.argmax(), mask.shape)[::-1]
    with pytest.raises(InputError, match="empty"):
        click_in(np.zeros((4, 4), np.bool_))


@pytest.mark.slow
def test_sam2_is_evaluated_as_we_are(tmp_path: Path, tiny_pair: Pair) -> None:
    labels = squares(4) + squares(4, first=2, obj_id=2)
    sequence = _sequence(tmp_path, labels)
    ref, ours = (evaluate(model, sequence, "box") for model in (tiny_pair.ref, tiny_pair.ours))
    for theirs, own in zip(ref.objects, ours.objects, strict=True):
        assert (theirs.obj_id, theirs.prompt_frame) == (own.obj_id, own.prompt_frame)
        np.testing.assert_array_equal(np.isnan(theirs.score), np.isnan(own.score))
        assert np.isfinite([theirs.j, theirs.f]).all()
    # The first frame uses no memory, which sam2 rounds.
    assert 0 < ref.objects[0].j[0] < 1
    for name in ("j", "f", "score"):
        theirs_first, own_first = (getattr(r.objects[0], name)[0] for r in (ref, ours))
        assert own_first == pytest.approx(theirs_first, abs=0.01)


class _Hasty(Oracle):
    """Omits the last frame."""

    def propagate_in_video(self, *args: Any, **kwargs: Any) -> Any:
        yield from list(super().propagate_in_video(*args, **kwargs))[:-1]


def test_invalid_evaluations(tmp_path: Path) -> None:
    labels = squares()
    sequence, oracle = _sequence(tmp_path, labels), Oracle({"bear": labels})
    with pytest.raises(InputError, match="unknown kind of prompt 'scribble'"):
        evaluate(oracle, sequence, "scribble")  # type: ignore[arg-type]
    with pytest.raises(StateError, match="skipped frame 5 of bear"):
        evaluate(_Hasty({"bear": labels}), sequence)
    nothing = _sequence(tmp_path / "nothing", np.zeros_like(labels))
    with pytest.raises(VideoError, match="no objects"):
        evaluate(oracle, nothing)
