from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from fastsam2.cli.models import ModelChoice
from fastsam2.modeling.backbones.hieradet import Hiera
from tests.cli.running import FakePredictor, fake_model, fastsam2, tracks
from tests.data.videos import Frames, damage_frame, write_jpegs, write_video

__all__ = ["fake_model"]

POINT = ("--point", "9,9")


@pytest.fixture
def videos(tmp_path: Path, clip: Path, frames: Frames) -> list[Path]:
    """Videos of 12, 5 and 3 frames."""
    first = Path(shutil.copy(clip, tmp_path / "first.mp4"))
    return [
        first,
        write_jpegs(tmp_path / "second.v2", frames[:5]),
        write_video(tmp_path / "third.mkv", frames[:3]),
    ]


def _frames(folder: Path) -> list[int]:
    return [entry["frame"] for entry in tracks(folder)["frames"]]


def test_each_video_has_a_folder_and_the_same_prompts(
    tmp_path: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    out = tmp_path / "out"
    outcome = fastsam2("track", *videos, "--point", "9,9@1", "--point", "5,5@2:2", "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == ["first", "second.v2", "third"]
    for video, name, count in zip(videos, ("first", "second.v2", "third"), (12, 5, 3), strict=True):
        assert _frames(out / name) == list(range(1, count))
        assert tracks(out / name)["video"]["path"] == str(video)
        assert (out / name / "overlay.mp4").exists()
        assert f"{count - 1} frames, 2 objects" in outcome.out
    assert [(frame, obj_id) for frame, obj_id, _ in fake_model.prompts] == 3 * [(1, 1), (2, 2)]
    assert outcome.out.count("model    nano") == 1


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [["9,9@0"], ["9,9@0", "5,5@5:2"]])
def test_each_frame_is_encoded_once(
    tmp_path: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch, prompts: list[str]
) -> None:
    """Also if the encoder runs ahead of the tracker, four frames at a time."""
    encoded: list[int] = []
    forward = Hiera.forward

    def count(trunk: Hiera, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        encoded.append(len(images))
        return forward(trunk, images, *args, **kwargs)

    video_predictor = ModelChoice.video_predictor

    def encoding_ahead(choice: ModelChoice) -> Any:
        predictor = video_predictor(choice)
        predictor.plan = replace(predictor.plan, encoder_batch=4)
        return predictor

    monkeypatch.setattr(Hiera, "forward", count)
    monkeypatch.setattr(ModelChoice, "video_predictor", encoding_ahead)
    videos = [write_jpegs(tmp_path / name, frames[:11]) for name in ("first", "second")]
    points = [argument for prompt in prompts for argument in ("--point", prompt)]
    options = ["--device", "cpu", "-o", tmp_path / "out"]
    outcome = fastsam2("track", *videos, *points, *options)
    assert outcome.code == 0, outcome.err
    assert sum(encoded) == 22
    assert max(encoded) == 4


def test_one_bad_video_does_not_keep_the_others_from_being_done(
    tmp_path: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    damage_frame(videos[0], 6)
    missing, out = tmp_path / "missing.mp4", tmp_path / "out"
    outcome = fastsam2("track", missing, *videos, *POINT, "-o", out)
    assert outcome.code == 1
    first, second = outcome.err.splitlines()
    assert first == f"fastsam2: no such file or folder: {missing}"
    assert f"frame 6 of {videos[0]} is damaged" in second
    assert second.endswith(f"; the 6 frames done by then: see {out / 'first'}")
    assert _frames(out / "first") == [0, 1, 2, 3, 4, 5]
    assert (_frames(out / "second.v2"), _frames(out / "third")) == ([0, 1, 2, 3, 4], [0, 1, 2])
    assert not (out / "missing").exists()


def test_errors_that_name_no_video_get_its_name(
    tmp_path: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    Image.fromarray(np.ones((48, 64), np.uint8)).save(tmp_path / "m.png")
    prompts = ["--mask", tmp_path / "m.png", "--start", "3"]
    outcome = fastsam2("track", *videos, *prompts, "-o", tmp_path / "out")
    assert outcome.code == 2
    message = "--start 3: third.mkv has frames 0 to 2"
    assert outcome.line == f"fastsam2: {videos[2]}: {message}"
    assert _frames(tmp_path / "out" / "second.v2") == [3, 4]


def test_without_any_good_video_no_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(choice: ModelChoice) -> None:
        raise AssertionError

    monkeypatch.setattr(ModelChoice, "video_predictor", refuse)
    outcome = fastsam2("track", "a.mp4", "b.mp4", *POINT, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        "fastsam2: no such file or folder: a.mp4",
        "fastsam2: no such file or folder: b.mp4",
    ]


def test_ctrl_c_ends_them_all(
    tmp_path: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    seen: list[int] = []

    def press(frame_idx: int) -> None:
        seen.append(frame_idx)
        if len(seen) == 12 + 3:
            raise KeyboardInterrupt

    fake_model.act = press
    out = tmp_path / "out"
    outcome = fastsam2("track", tmp_path / "missing.mp4", *videos, *POINT, "-o", out)
    assert outcome.code == 130
    missing, interrupted = outcome.err.splitlines()
    assert "missing.mp4" in missing
    assert interrupted == (
        f"fastsam2: {videos[1]}: interrupted; the 2 frames done by then: see {out / 'second.v2'}"
    )
    assert tracks(out / "first")["complete"] is True
    assert tracks(out / "second.v2")["complete"] is False
    assert _frames(out / "second.v2") == [0, 1]
    assert not (out / "third").exists()


def test_two_videos_of_one_name(
    tmp_path: Path, clip: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    (tmp_path / "more").mkdir()
    other = Path(shutil.copy(clip, tmp_path / "more" / "first.mov"))
    outcome = fastsam2("track", *videos, other, *POINT, "-o", tmp_path / "out")
    assert outcome.code == 2
    folder = tmp_path / "out" / "first"
    assert f"{videos[0]} and {other} would both go to {folder}: rename one" in outcome.line
    assert not (tmp_path / "out").exists()


def test_results_of_one_video_that_are_there_already(
    tmp_path: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    out = tmp_path / "out"
    assert fastsam2("track", videos[0], *POINT, "-o", out / "first").code == 0
    outcome = fastsam2("track", *videos, *POINT, "--end", "1", "-o", out)
    assert outcome.code == 2
    assert "holds results already" in outcome.line
    assert len(_frames(out / "first")) == 12
    assert _frames(out / "third") == [0, 1]


def test_backward(tmp_path: Path, videos: list[Path], fake_model: FakePredictor) -> None:
    out = tmp_path / "out"
    outcome = fastsam2("track", *videos, *POINT, "--reverse", "-o", out)
    assert outcome.code == 0, outcome.err
    assert (_frames(out / "second.v2"), _frames(out / "third")) == ([4, 3, 2, 1, 0], [2, 1, 0])


def test_states_of_videos_that_are_done_do_not_stay(
    tmp_path: Path, videos: list[Path], fake_model: FakePredictor
) -> None:
    """A session on a GPU holds memory, and there may be a hundred videos."""

    class State(dict):  # type: ignore[type-arg]
        pass

    states: list[weakref.ref[State]] = []
    init_state = fake_model.init_state
    alive: list[int] = []

    def remember(source: object, **options: Any) -> State:
        state = State(init_state(source, **options))
        states.append(weakref.ref(state))
        return state

    def look(frame_idx: int) -> None:
        alive.append(sum(state() is not None for state in states))

    fake_model.init_state = remember  # type: ignore[method-assign]
    fake_model.act = look
    assert fastsam2("track", *videos, *POINT, "-o", tmp_path / "out").code == 0
    assert alive == [1] * (12 + 5 + 3)
