"""Sessions in batches, in parallel, with limited history, and after errors."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam2 import SAM2VideoPredictor
from fastsam2.engine import track_step
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.offload import PendingOffload
from fastsam2.engine.track_step import TrackStep
from fastsam2.errors import InputError, VideoError
from fastsam2.predictors import session as session_module
from fastsam2.types import FrameOutput
from tests.predictors.nano import nano_predictor
from tests.support import frames_rgb, relative_error

LENGTH = 40

#: Prompts of each object: (frame, arguments).
PROMPTS: dict[Any, list[tuple[int, dict[str, Any]]]] = {
    1: [(0, {"points": [[50, 60]], "labels": [1]})],
    2: [(0, {"box": [20, 30, 90, 100]}), (7, {"points": [[100, 50]], "labels": [0]})],
    "late": [(9, {"points": [[120, 80], [90, 20]], "labels": [1, 0]})],
    4: [(3, {"box": [60, 20, 150, 110]})],
}


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    """Model with float32 memory, as rounding to bfloat16 would amplify small differences."""
    return nano_predictor(memory_dtype=torch.float32)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return frames_rgb(LENGTH)


def prompt(model: SAM2VideoPredictor, state: Any, objects: list[Any]) -> None:
    for obj_id in objects:
        for frame, arguments in PROMPTS[obj_id]:
            model.add_new_points_or_box(state, frame, obj_id, **arguments)


def track(model: SAM2VideoPredictor, state: Any, **kwargs: Any) -> dict[Any, Tensor]:
    """Return low-resolution logits `[T, 1, h, w]` of each object."""
    found: dict[Any, list[Tensor]] = {}
    for result in model.propagate(state, **kwargs):
        for obj_id, masks in zip(result.obj_ids, result.low_res_masks, strict=True):
            found.setdefault(obj_id, []).append(masks)
    return {obj_id: torch.stack(masks) for obj_id, masks in found.items()}


def tracked_alone(model: SAM2VideoPredictor, clip: Any, **kwargs: Any) -> dict[Any, Tensor]:
    found = {}
    for obj_id in PROMPTS:
        state = model.init_state(clip)
        prompt(model, state, [obj_id])
        found.update(track(model, state, **kwargs))
    return found


def assert_close(actual: dict[Any, Tensor], expected: dict[Any, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for obj_id, masks in expected.items():
        present = masks[masks > -1000]
        assert len(present)
        assert (actual[obj_id] - masks).abs().max() <= 1e-4 * present.std(), obj_id


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_batch_equals_single_objects_in_any_order(
    model: SAM2VideoPredictor, clip: np.ndarray, reverse: bool
) -> None:
    """Objects differ in prompt frames and memory; some are tracked, others prompted."""
    kwargs = {"start_frame_idx": 12 if reverse else 0, "reverse": reverse}
    expected = tracked_alone(model, clip, **kwargs)
    for order in ([1, 2, "late", 4], [4, "late", 2, 1]):
        state = model.init_state(clip)
        prompt(model, state, order)
        assert_close(track(model, state, **kwargs), expected)


def test_all_objects_are_one_batch(
    model: SAM2VideoPredictor, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = record_batches(monkeypatch)
    state = model.init_state(clip)
    prompt(model, state, list(PROMPTS))
    track(model, state, start_frame_idx=10, max_frame_num_to_track=5)
    assert sizes == [4] * 6


def record_batches(monkeypatch: pytest.MonkeyPatch, most: int = 100) -> list[int]:
    """Record the batch size of each step; more than `most` objects raise an out-of-memory error."""
    sizes: list[int] = []
    run = TrackStep.__call__

    def spy(self: TrackStep, features: Any, grid: Any, pages: Any, tables: Any) -> Any:
        sizes.append(tables.reads.shape[0])
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, features, grid, pages, tables)

    monkeypatch.setattr(track_step.TrackStep, "__call__", spy)
    return sizes


def test_out_of_memory_makes_smaller_batches(
    model: SAM2VideoPredictor, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tracked_alone(model, clip, start_frame_idx=10, max_frame_num_to_track=3)
    sizes = record_batches(monkeypatch, most=1)
    state = model.init_state(clip)
    prompt(model, state, list(PROMPTS))
    assert_close(track(model, state, start_frame_idx=10, max_frame_num_to_track=3), expected)
    assert sizes == [4, 2, 1, 1, 2, 1, 1] * 4


def test_out_of_memory_with_one_object(
    model: SAM2VideoPredictor, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier results stay, and the session continues once there is memory."""
    expected, actual = ({}, {})
    state, untouched = model.init_state(clip), model.init_state(clip)
    for session in (state, untouched):
        prompt(model, session, [1, 2])
        track(model, session, max_frame_num_to_track=4)
    expected = track(model, untouched, start_frame_idx=5, max_frame_num_to_track=3)
    with monkeypatch.context() as patch:
        record_batches(patch, most=0)
        with pytest.raises(torch.OutOfMemoryError):
            track(model, state, start_frame_idx=5)
    assert sorted(state["output_dict_per_obj"][0]["non_cond_frame_outputs"]) == [1, 2, 3, 4]
    actual = track(model, state, start_frame_idx=5, max_frame_num_to_track=3)
    for obj_id in expected:
        assert torch.equal(actual[obj_id], expected[obj_id])


class Broken:
    """Frames of which one cannot be read at first."""

    def __init__(self, frames: Any, broken: int) -> None:
        self.frames, self.broken = frames, broken

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frame_idx: int) -> Tensor:
        if frame_idx == self.broken:
            raise VideoError(f"frame {frame_idx} is damaged", frame_idx)
        return self.frames[frame_idx]


def test_unreadable_frame(model: SAM2VideoPredictor, clip: np.ndarray) -> None:
    whole, state = model.init_state(clip), model.init_state(clip)
    state["images"] = Broken(state["images"], broken=6)
    for session in (whole, state):
        prompt(model, session, [1, 2])
    expected = track(model, whole, max_frame_num_to_track=9)
    found: list[Tensor] = []
    with pytest.raises(VideoError, match="frame 6 is damaged"):
        found.extend(result.low_res_masks for result in model.propagate(state))
    # Object 2 has been corrected on frame 7, after the unreadable one.
    assert torch.equal(torch.stack(found)[:, 0], expected[1][:6])
    state["images"].broken = None
    rest = track(model, state, start_frame_idx=6, max_frame_num_to_track=3)
    assert torch.equal(rest[1], expected[1][6:])


@pytest.mark.slow
def test_an_interrupted_propagation_is_resumed(model: SAM2VideoPredictor, clip: np.ndarray) -> None:
    whole, state = model.init_state(clip), model.init_state(clip)
    for session in (whole, state):
        prompt(model, session, [1])
    expected = track(model, whole)[1]
    found = []
    for result in model.propagate(state):
        found.append(result.low_res_masks)
        if result.frame_idx == 7:
            break
    found += [r.low_res_masks for r in model.propagate(state, start_frame_idx=8)]
    assert torch.equal(torch.cat(found), expected)


@pytest.mark.slow
def test_object_removed_during_propagation(model: SAM2VideoPredictor, clip: np.ndarray) -> None:
    """It is left out from the next frame on; the results of the others do not change."""
    whole, state = model.init_state(clip), model.init_state(clip)
    for session in (whole, state):
        prompt(model, session, [1, 2])
    expected = track(model, whole)
    found: dict[Any, list[Tensor]] = {1: [], 2: []}
    for result in model.propagate(state):
        for obj_id, masks in zip(result.obj_ids, result.low_res_masks, strict=True):
            found[obj_id].append(masks)
        if result.frame_idx == 5:
            model.remove_object(state, 1)
    assert torch.equal(torch.stack(found[1]), expected[1][:6])
    assert relative_error(torch.stack(found[2]), expected[2]) <= 1e-4
    assert state["obj_ids"] == [2]
    rest = model.propagate(state)
    next(rest)
    model.remove_object(state, 2)
    assert list(rest) == []  # nothing is left to track


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [False, True], ids=["of their own", "of the same video"])
def test_sessions_in_turns_and_on_threads(
    model: SAM2VideoPredictor, clip: np.ndarray, sharing: bool
) -> None:
    def opened(objects: list[Any], video: Any) -> Any:
        state = model.init_state(video)
        prompt(model, state, objects)
        return state

    groups: list[list[Any]] = [[1, 4], [2, "late"]]
    expected = [track(model, opened(objects, clip)) for objects in groups]

    first = model.init_state(clip)
    videos = [first, first] if sharing else [clip, clip]
    states = [opened(objects, v) for objects, v in zip(groups, videos, strict=True)]
    assert (states[0].features is states[1].features) == sharing
    turns: list[list[Any]] = [[], []]
    for results in zip(*(model.propagate(state) for state in states), strict=True):
        for found, result in zip(turns, results, strict=True):
            found.append(result.low_res_masks)
    for masks, alone in zip(turns, expected, strict=True):
        assert torch.equal(torch.stack(masks, dim=1), torch.stack(list(alone.values())))

    states = [opened(objects, v) for objects, v in zip(groups, videos, strict=True)]
    threaded: list[dict[Any, Tensor]] = [{}, {}]

    def run(i: int) -> None:
        threaded[i] = track(model, states[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, alone in zip(threaded, expected, strict=True):
        assert found.keys() == alone.keys()
        for obj_id, masks in alone.items():
            assert torch.equal(found[obj_id], masks)


@pytest.mark.slow
def test_encoding_ahead_changes_nothing_but_rounding(
    model: SAM2VideoPredictor, clip: np.ndarray
) -> None:
    expected = tracked_alone(model, clip, start_frame_idx=0)
    ahead = copy.deepcopy(model)
    ahead.plan = Plan(encoder_batch=3)
    state = ahead.init_state(clip, feature_bytes=0)
    prompt(ahead, state, list(PROMPTS))
    assert_close(track(ahead, state, start_frame_idx=0), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("history", "frames"), [("full", 39), ("window", 16), (25, 25), (3, 16)])
def test_history(model: SAM2VideoPredictor, clip: np.ndarray, history: Any, frames: int) -> None:
    """A bounded history does not change the results of tracking forward."""
    assert model.selection_rules.reach == 15
    expected = model.init_state(clip)
    state = model.init_state(clip, history=history)
    for session in (expected, state):
        prompt(model, session, [1, 4])
    whole, bounded = (track(model, x, max_frame_num_to_track=38) for x in (expected, state))
    for obj_id in whole:
        assert torch.equal(whole[obj_id], bounded[obj_id])
    for obj in state.objects:
        # The prompted frame of object 1 is kept as well.
        assert len(obj.frames_tracked) == frames
        known = obj.memory.cond_frame_outputs.keys() | obj.memory.non_cond_frame_outputs.keys()
        assert len(known) <= frames + 1
    # The last passed frame can still be corrected.
    for session in (expected, state):
        model.add_new_points_or_box(session, 38, 1, points=[[90, 20]], labels=[0])
    assert torch.equal(
        track(model, expected, start_frame_idx=39)[1], track(model, state, start_frame_idx=39)[1]
    )


@pytest.mark.slow
def test_unreadable_memory_is_offloaded(
    model: SAM2VideoPredictor, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks at once, maps after 7 frames, pointers after 16; prompted outputs stay. Checks the
    calls, as there is no other device."""
    moved: dict[str, list[FrameOutput]] = {}

    def leaving(fields: list[tuple[FrameOutput, list[str]]]) -> PendingOffload:
        for output, names in fields:
            for name in names:
                moved.setdefault(name, []).append(output)
        return PendingOffload(fields)

    monkeypatch.setattr(session_module, "PendingOffload", leaving)
    state = model.init_state(clip)
    prompt(model, state, [1])
    memory = state["output_dict_per_obj"][0]
    assert (model.selection_rules.memory_reach, model.selection_rules.reach) == (6, 15)
    for result in model.propagate(state):
        for name, steps in (("pred_masks", 0), ("maskmem_features", 7), ("obj_ptr", 16)):
            past = range(1, result.frame_idx - steps + 1)
            assert moved.get(name, []) == [memory["non_cond_frame_outputs"][t] for t in past]
    in_slots = [t for t, x in memory["non_cond_frame_outputs"].items() if x.slot is not None]
    assert in_slots == list(range(LENGTH - 7, LENGTH))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"history": "all"}, "not 'all'"),
        ({"history": -1}, "not -1"),
    ],
)
def test_invalid_options(
    model: SAM2VideoPredictor, clip: np.ndarray, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.init_state(clip, **kwargs)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam2.sam2_video_predictor.tqdm", lambda frames, **_: frames)
