"""Invalid input: one clear error each, and a session that is unchanged by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.errors import FastSAM2Error, InputError, StateError, VideoError
from fastsam2.predictors.prompts import join_points, mask_prompt, point_prompt
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests import reference, support

SIZE = 128
CPU = torch.device("cpu")
MASK = np.zeros((120, 160), dtype=bool)
MASK[30:90, 40:110] = True


@pytest.fixture(scope="module")
def predictor() -> SAM2VideoPredictor:
    model = build_sam2_video_predictor(
        "sam2.1-tiny", device="cpu", hydra_overrides_extra=[f"++model.image_size={SIZE}"]
    )
    reference.randomise_(model)
    return model


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.write_clip(tmp_path_factory.mktemp("prompts"), frames=4)


def points(**kwargs: Any) -> Callable[[SAM2VideoPredictor, Any], Any]:
    given = {"frame_idx": 1, "obj_id": 9, "points": [[50, 60]], "labels": [1]} | kwargs
    return lambda predictor, state: predictor.add_new_points_or_box(state, **given)


def mask(value: Any, **kwargs: Any) -> Callable[[SAM2VideoPredictor, Any], Any]:
    given = {"frame_idx": 1, "obj_id": 9, "mask": value} | kwargs
    return lambda predictor, state: predictor.add_new_mask(state, **given)


Bad = tuple[Callable[[SAM2VideoPredictor, Any], Any], type[Exception], str]
NAN = float("nan")
BAD: dict[str, Bad] = {
    "NaN in points": (points(points=[[NAN, 3]]), InputError, "points must be finite"),
    "infinite box": (points(box=[0, 0, np.inf, 9]), InputError, "box must be finite"),
    "NaN label": (points(labels=[NAN]), InputError, "labels must be finite"),
    "words for points": (points(points=["here"]), InputError, "points must be numbers"),
    "ragged points": (points(points=[[1, 2], [3]]), InputError, "points must be numbers"),
    "three coordinates": (points(points=[[1, 2, 3]]), InputError, r"not \[1, 1, 3\]"),
    "one flat point": (points(points=[50, 60]), InputError, r"not \[2\]"),
    "points of two objects": (
        points(points=np.zeros((2, 1, 2)), labels=[[1], [1]]),
        InputError,
        r"not \[2, 1, 2\]",
    ),
    "more labels than points": (points(labels=[1, 0]), InputError, r"1 points but labels .*2\]"),
    "points without labels": (points(labels=None), InputError, "points without labels"),
    "labels without points": (points(points=None), InputError, "labels without points"),
    "no prompt": (points(points=None, labels=None), InputError, "at least one of points or box"),
    "label 7": (points(labels=[7]), InputError, r"labels must be .*not \[\[7.0\]\]"),
    "label 0.5": (points(labels=[0.5]), InputError, "labels must be"),
    "box of three": (points(box=[1, 2, 3]), InputError, r"box must be .*shape \[3\]"),
    "two boxes": (points(box=np.zeros((2, 4))), InputError, r"box must be .*shape \[2, 4\]"),
    "box after points": (
        points(box=[1, 2, 3, 4], clear_old_points=False),
        InputError,
        "clear_old_points=True",
    ),
    "frame beyond the end": (points(frame_idx=4), InputError, "no frame 4; .* frames 0 to 3"),
    "frame before the start": (points(frame_idx=-1), InputError, "no frame -1"),
    "half a frame": (points(frame_idx=1.5), InputError, "no frame 1.5"),
    "frame as a key of JSON": (points(frame_idx="1"), InputError, "whole number, not '1'"),
    "frame by name": (points(frame_idx="first"), InputError, "whole number, not 'first'"),
    "id that is no key": (points(obj_id=[1]), InputError, r"hashable, not \[1\]"),
    "mask with channels": (mask(MASK[None]), InputError, r"not of shape \[1, 120, 160\]"),
    "mask without pixels": (mask(MASK[:0]), InputError, r"not of shape \[0, 160\]"),
    "mask of logits": (mask(torch.full((120, 160), -3.0)), InputError, "negative, but is -3 to -3"),
    "array of logits": (mask(MASK * 7.0 - 3), InputError, "negative, but is -3 to 4"),
    "mask of NaN": (mask(MASK * NAN), InputError, "negative, but is nan to nan"),
    "mask of words": (mask(MASK.astype(str)), InputError, "bool or numbers"),
    "mask on no frame": (mask(MASK, frame_idx=4), InputError, "no frame 4"),
    "mask of no id": (mask(MASK, obj_id={}), InputError, "hashable"),
    "removing an unknown object": (
        lambda p, state: p.remove_object(state, 9, strict=True),
        StateError,
        r"no object 9; the objects are \[1, 'two'\]",
    ),
    "clearing an unknown object": (
        lambda p, state: p.clear_all_prompts_in_frame(state, 0, 9),
        StateError,
        "no object 9",
    ),
    "propagating by half a frame": (
        lambda p, state: list(p.propagate_in_video(state, max_frame_num_to_track=0.5)),
        InputError,
        "max_frame_num_to_track must be a whole number from 0 on, not 0.5",
    ),
    "propagating from nowhere": (
        lambda p, state: list(p.propagate_in_video(state, start_frame_idx=4)),
        InputError,
        "no frame 4",
    ),
    "propagating by less than nothing": (
        lambda p, state: list(p.propagate_in_video(state, max_frame_num_to_track=-1)),
        InputError,
        "-1",
    ),
}


def begin(predictor: SAM2VideoPredictor, video: Path) -> Any:
    """Return a session with tracked objects, and one output not yet encoded into memory."""
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 0, 1, [[50, 60]], [1])
    predictor.add_new_mask(state, 0, "two", MASK)
    list(predictor.propagate_in_video(state, max_frame_num_to_track=1))
    predictor.add_new_points_or_box(state, 1, 1, [[70, 70]], [0])
    return state


def contents(value: Any) -> Any:
    """Convert a state to nested lists, with tensors by identity, to detect any change."""
    if isinstance(value, Tensor):
        return id(value)
    if hasattr(value, "keys"):
        return [(key, contents(value[key])) for key in value]
    return [contents(x) for x in value] if isinstance(value, (list, tuple)) else value


def fingerprint(state: Any) -> Any:
    """Return the contents of a state except frames and caches."""
    return contents({k: state[k] for k in state if k not in ("images", "cached_features")})


@pytest.fixture(scope="module")
def begun(predictor: SAM2VideoPredictor, video: Path) -> Any:
    return begin(predictor, video)


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_call(predictor: SAM2VideoPredictor, begun: Any, case: Bad) -> None:
    call, error, message = case
    # Propagation commits prompts before it looks at its own arguments.
    predictor.propagate_in_video_preflight(begun)
    before = fingerprint(begun)
    with pytest.raises(error, match=message) as caught:
        call(predictor, begun)
    assert isinstance(caught.value, FastSAM2Error)
    assert "\n" not in str(caught.value)
    assert fingerprint(begun) == before


def test_session_survives_all_bad_calls(predictor: SAM2VideoPredictor, video: Path) -> None:
    """Results afterwards are those without the bad calls."""
    plain, tried = begin(predictor, video), begin(predictor, video)
    for call, error, _ in BAD.values():
        with pytest.raises(error):
            call(predictor, tried)
    assert tried["obj_ids"] == [1, "two"]
    assert tried["obj_id_to_idx"] == {1: 0, "two": 1}
    found = [list(predictor.propagate_in_video(state)) for state in (plain, tried)]
    for (t, ids, a), (u, same, b) in zip(*found, strict=True):
        assert t == u
        assert ids == same
        assert torch.equal(a, b)


class FailingFrames:
    """Frames of which some cannot be read at first."""

    def __init__(self, images: Sequence[Tensor], bad: set[int]) -> None:
        self.images = images
        self.bad = bad

    def __getitem__(self, index: int) -> Tensor:
        if index in self.bad:
            raise VideoError("frame cannot be read", frame_idx=index)
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)


@pytest.mark.parametrize("call", [points(frame_idx=2), mask(MASK, frame_idx=2)])
@pytest.mark.parametrize("obj_id", [1, 9])
def test_prompt_on_an_unreadable_frame(
    predictor: SAM2VideoPredictor, video: Path, call: Callable[..., Any], obj_id: int
) -> None:
    """Neither the object nor its prompt is added."""
    state = begin(predictor, video)
    state["images"] = FailingFrames(state["images"], {2})
    before = fingerprint(state)
    for _ in range(2):
        with pytest.raises(VideoError):
            call(predictor, state)
    assert fingerprint(state) == before
    state["images"].bad.clear()
    call(predictor, state)
    assert state["obj_ids"] == [1, "two", 9]
    assert len(list(predictor.propagate_in_video(state))) == 4


@pytest.mark.slow
def test_propagation_over_an_unreadable_frame(predictor: SAM2VideoPredictor, video: Path) -> None:
    """Earlier frames are yielded and kept; tracking continues once the frame can be read."""
    plain, broken = begin(predictor, video), begin(predictor, video)
    expected = list(predictor.propagate_in_video(plain))
    broken["images"] = FailingFrames(broken["images"], {2})
    found = []
    with pytest.raises(VideoError) as caught:
        found.extend(predictor.propagate_in_video(broken))
    assert caught.value.frame_idx == 2
    # `extend` loses the items before the error; the session keeps them.
    assert sorted(broken["frames_tracked_per_obj"][0]) == [0, 1]
    broken["images"].bad.clear()
    found = list(predictor.propagate_in_video(broken, start_frame_idx=2))
    for (t, _, a), (u, _, b) in zip(expected[2:], found, strict=True):
        assert t == u
        assert torch.equal(a, b)


def test_committing_prompts_that_cannot_be_encoded(
    predictor: SAM2VideoPredictor, video: Path
) -> None:
    """Prompts on a frame that has become unreadable stay pending until it can be read."""
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 1, 1, [[50, 60]], [1])
    predictor.add_new_points_or_box(state, 0, 1, [[50, 60]], [1])
    state["images"] = FailingFrames(state["images"], {1})
    for _ in range(2):
        with pytest.raises(VideoError):
            predictor.propagate_in_video_preflight(state)
    state["images"].bad.clear()
    assert len(list(predictor.propagate_in_video(state))) == 4
    assert sorted(state["output_dict_per_obj"][0]["cond_frame_outputs"]) == [0, 1]


def test_propagating_without_prompts(predictor: SAM2VideoPredictor, video: Path) -> None:
    state = predictor.init_state(str(video))
    for call in (predictor.propagate_in_video_preflight, predictor.propagate_in_video):
        with pytest.raises(StateError, match="no object has a prompt"):
            list(call(state) or ())
    predictor.add_new_points_or_box(state, 0, 1, [[50, 60]], [1])
    predictor.add_new_points_or_box(state, 0, 2, [[50, 60]], [1])
    predictor.clear_all_prompts_in_frame(state, 0, 2)
    with pytest.raises(StateError, match="object 2 has no prompt"):
        next(predictor.propagate_in_video(state))
    assert state["obj_ids"] == [1, 2]
    # Nothing was encoded for the object that has a prompt.
    assert state["output_dict_per_obj"][0]["cond_frame_outputs"] == {}
    predictor.remove_object(state, 2)
    assert len(list(predictor.propagate_in_video(state))) == 4


def test_unknown_objects_are_ignored_without_strict(
    predictor: SAM2VideoPredictor, begun: Any
) -> None:
    before = fingerprint(begun)
    assert predictor.remove_object(begun, 9) == ([1, "two"], [])
    assert fingerprint(begun) == before


# The functions themselves


def test_points_in_pixels_of_the_model() -> None:
    prompt = point_prompt(
        [[80, 30]], [1], [0, 0, 160, 120], video_size=(120, 160), image_size=64, device=CPU
    )
    assert prompt.point_coords.tolist() == [[[0, 0], [64, 64], [32, 16]]]
    assert prompt.point_labels.tolist() == [[2, 3, 1]]
    assert prompt.point_labels.dtype == torch.int32
    more = point_prompt([[0.5, 0.25]], [0], None, video_size=None, image_size=64, device=CPU)
    joined = join_points(prompt, more)
    assert joined.point_coords[0, -1].tolist() == [32, 16]
    assert joined.point_labels.tolist() == [[2, 3, 1, 0]]
    assert join_points(None, more) is more


@pytest.mark.parametrize("empty", [[], np.zeros((0, 2)), torch.zeros(1, 0, 2)])
def test_empty_points_are_points(empty: Any) -> None:
    labels = torch.zeros(1, 0) if isinstance(empty, Tensor) else []
    prompt = point_prompt(empty, labels, None, video_size=(1, 1), image_size=64, device=CPU)
    assert prompt.point_coords.shape == (1, 0, 2)
    assert prompt.point_labels.shape == (1, 0)


@pytest.mark.parametrize(
    "value",
    [
        MASK,
        MASK.astype(np.uint8) * 255,
        MASK.astype(np.int64),
        MASK.astype(np.float64),
        MASK * np.float32(255),
        MASK * 0.3,
        torch.from_numpy(MASK),
        torch.from_numpy(MASK).half(),
        torch.from_numpy(MASK).to(torch.uint8) * 7,
        MASK.tolist(),
        np.asfortranarray(MASK),
        MASK[::-1][::-1],
    ],
)
def test_forms_of_a_mask(value: Any) -> None:
    expected = mask_prompt(MASK, image_size=64, device=CPU)
    actual = mask_prompt(value, image_size=64, device=CPU)
    assert actual.shape == (1, 1, 64, 64)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
    assert set(actual.unique().tolist()) == {0.0, 1.0}


def test_mask_of_the_model_size_is_not_resized() -> None:
    fractions = torch.rand(64, 64)
    assert torch.equal(mask_prompt(fractions, image_size=64, device=CPU)[0, 0], fractions)
