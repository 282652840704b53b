"""The stream predictor: equal to the offline one, in constant memory, saved and restored."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam2 import SAM2StreamPredictor, SAM2VideoPredictor
from fastsam2.errors import InputError, StateError, VideoError
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.stream import StreamSession
from tests.predictors.nano import nano_predictor
from tests.support import frames_rgb

LENGTH = 64


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    return nano_predictor()


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return frames_rgb(LENGTH)


MASK = np.zeros((120, 160), dtype=bool)
MASK[30:80, 40:100] = True

#: Calls on each frame: (method, arguments) of the stream.
SCRIPT: dict[int, list[tuple[str, dict[str, Any]]]] = {
    0: [
        ("add_object", {"obj_id": 1, "points": [[50, 60]], "labels": [1]}),
        ("correct", {"obj_id": 1, "points": [[70, 80]], "labels": [1], "clear_old_points": False}),
        ("add_object", {"obj_id": 2, "box": [20, 30, 90, 100]}),
    ],
    5: [("add_object", {"obj_id": 3, "mask": MASK})],
    9: [("add_object", {"obj_id": 4, "points": [[120, 80]], "labels": [1]})],
    20: [("correct", {"obj_id": 2, "points": [[100, 50]], "labels": [0]})],
    30: [("remove_object", {"obj_id": 1})],
    50: [("correct", {"obj_id": 3, "mask": ~MASK})],
}


def offline(model: SAM2VideoPredictor, clip: np.ndarray) -> list[Tensor]:
    """Run the script with the offline predictor: track to a frame, prompt it, continue after it."""
    state, found = model.init_state(clip), []
    begin = 0
    for frame in [*sorted(SCRIPT), len(clip) - 1]:
        if state["obj_ids"]:
            found += [r.logits for r in model.propagate(state, begin, frame - begin)]
        for method, arguments in SCRIPT.get(frame, []):
            found += prompt_offline(model, state, frame, method, dict(arguments))
        begin = frame + 1
    return found


def prompt_offline(
    model: SAM2VideoPredictor, state: Any, frame: int, method: str, arguments: dict[str, Any]
) -> list[Tensor]:
    if method == "remove_object":
        model.remove_object(state, arguments["obj_id"])
        return []
    if "mask" in arguments:
        return [model.add_new_mask(state, frame, **arguments)[2]]
    return [model.add_new_points_or_box(state, frame, **arguments)[2]]


def play(stream: StreamSession, clip: np.ndarray, begin: int = 0) -> list[Tensor]:
    """Run the script from a frame on."""
    found = []
    for frame in range(begin, len(clip)):
        found.append(stream.step(clip[frame]).logits)
        for method, arguments in SCRIPT.get(frame, []):
            result = getattr(stream, method)(**arguments)
            if result is not None:
                found.append(result.logits)
    return found


@pytest.mark.slow
def test_equals_the_offline_predictor_bit_for_bit(
    model: SAM2VideoPredictor, clip: np.ndarray
) -> None:
    expected = offline(model, clip)
    # Frame 0 has no objects yet; offline there is nothing to track.
    empty, *found = play(SAM2StreamPredictor(model).start(), clip)
    assert empty.shape == (0, 1, 120, 160)
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b), i
    assert any((x > 0).any() and (x < 0).any() for x in found[-20:])


@pytest.mark.slow
def test_restored_state_continues_with_equal_results(
    model: SAM2VideoPredictor, clip: np.ndarray
) -> None:
    """The state is saved at frame 5, whose prompt has not been encoded into memory yet."""
    stream, expected = StreamSession(model), StreamSession(model)
    script = [("add_object", {"obj_id": 1, "box": [20, 30, 90, 100]})]
    for session in (stream, expected):
        for frame in clip[:6]:
            session.step(frame)
            for method, arguments in script if session.frame_idx == 0 else []:
                getattr(session, method)(**arguments)
        session.add_object("dog", points=[[50, 60]], labels=[1])
        session.correct("dog", points=[[70, 80]], labels=[0], clear_old_points=False)
    buffer = io.BytesIO()
    torch.save(stream.state_dict(), buffer)
    buffer.seek(0)
    resumed = StreamSession(model)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert (resumed.frame_idx, resumed.obj_ids) == (5, [1, "dog"])
    for session in (resumed, expected):
        session.correct("dog", points=[[100, 50]], labels=[0], clear_old_points=False)
    for frame in clip[6:30]:
        assert torch.equal(resumed.step(frame).logits, expected.step(frame).logits)


def held_bytes(stream: StreamSession) -> int:
    buffer = io.BytesIO()
    torch.save(stream.state_dict(), buffer)
    return buffer.tell()


@pytest.mark.slow
def test_stores_only_memory_that_the_next_frame_can_read(
    model: SAM2VideoPredictor, clip: np.ndarray
) -> None:
    stream = StreamSession(model)
    sizes = []
    for i in range(60):
        stream.step(clip[i])
        if i == 0:
            stream.add_object(1, box=[20, 30, 90, 100])
        else:
            stream.correct(1, mask=MASK)
        sizes.append(held_bytes(stream))
    assert max(sizes[30:]) <= 1.01 * sizes[25]


def test_empty_state_is_a_new_stream(model: SAM2VideoPredictor, clip: np.ndarray) -> None:
    stream = StreamSession(model)
    assert stream.state_dict() == {}
    stream.step(clip[0])
    stream.load_state_dict({})
    assert stream.frame_idx is None
    assert stream.obj_ids == []


def test_state_of_another_model(model: SAM2VideoPredictor, clip: np.ndarray) -> None:
    stream = StreamSession(model)
    stream.step(clip[0])
    state = {**stream.state_dict(), "image_size": 1024}
    with pytest.raises(StateError, match="image_size 1024, but the model has 128"):
        stream.load_state_dict(state)
    with pytest.raises(StateError, match="not the state of a stream: KeyError"):
        stream.load_state_dict({k: v for k, v in stream.state_dict().items() if k != "pixels"})
    assert stream.frame_idx == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.add_object(1, box=[0, 0, 9, 9]), StateError, "object 1 already exists"),
        (lambda s: s.correct(2, box=[0, 0, 9, 9]), StateError, "no object 2"),
        (lambda s: s.remove_object(2), StateError, "no object 2"),
        (lambda s: s.add_object([], box=[0, 0, 9, 9]), InputError, "hashable"),
        (lambda s: s.add_object(2), InputError, "at least one of points or box"),
        (lambda s: s.add_object(2, mask=MASK, box=[0, 0, 9, 9]), InputError, "cannot be combined"),
        (lambda s: s.step(np.zeros((50, 50, 3), np.uint8)), InputError, "50x50 .* 160x120"),
        (lambda s: s.step(np.zeros((120, 160), np.uint8)), VideoError, "uint8"),
    ],
)
def test_errors_leave_the_stream_unchanged(
    model: SAM2VideoPredictor,
    clip: np.ndarray,
    call: Callable[[StreamSession], Any],
    error: type[Exception],
    message: str,
) -> None:
    stream, untouched = StreamSession(model), StreamSession(model)
    for session in (stream, untouched):
        session.step(clip[0])
        session.add_object(1, points=[[50, 60]], labels=[1])
    with pytest.raises(error, match=message):
        call(stream)
    assert stream.obj_ids == [1]
    assert torch.equal(stream.step(clip[1]).logits, untouched.step(clip[1]).logits)


def test_a_prompt_before_any_frame(model: SAM2VideoPredictor) -> None:
    with pytest.raises(StateError, match=r"call step\(\) first"):
        StreamSession(model).add_object(1, box=[0, 0, 9, 9])


def test_failed_step_can_be_repeated(
    model: SAM2VideoPredictor, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, untouched = StreamSession(model), StreamSession(model)
    for session in (stream, untouched):
        session.step(clip[0])
        session.add_object(1, points=[[50, 60]], labels=[1])
        session.step(clip[1])

    def fails(*args: Any) -> FrameResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward_image", fails)
        with pytest.raises(KeyboardInterrupt):
            stream.step(clip[2])
    # The frame before it is still the current one, and can be corrected.
    results = [s.correct(1, points=[[70, 80]], labels=[1]) for s in (stream, untouched)]
    assert torch.equal(results[0].logits, results[1].logits)
    assert torch.equal(stream.step(clip[2]).logits, untouched.step(clip[2]).logits)


def test_reset(model: SAM2VideoPredictor, clip: np.ndarray) -> None:
    stream = StreamSession(model)
    stream.step(clip[0])
    stream.add_object(1, points=[[50, 60]], labels=[1])
    stream.reset()
    result = stream.step(np.zeros((50, 60, 3), np.uint8))
    assert (result.frame_idx, result.obj_ids, result.logits.shape) == (0, [], (0, 1, 50, 60))
