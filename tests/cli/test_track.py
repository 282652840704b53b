from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsam2.data.open_frames import open_frames
from fastsam2.data.rle import decode_rle
from fastsam2.data.writers import read_labels
from tests.cli.running import FakePredictor, fake_model, fastsam2, tracks
from tests.data.videos import Frames, damage_frame, write_jpegs

__all__ = ["fake_model"]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _check(folder: Path, frames: list[int], predictor: FakePredictor) -> None:
    """Check that all results hold these frames (in tracking order) and the predictor's masks."""
    assert _names(folder) == ["masks", "overlay.mp4", "tracks.json"]
    assert _names(folder / "masks") == [f"{frame_idx:05d}.png" for frame_idx in sorted(frames)]
    document = tracks(folder)
    assert [entry["frame"] for entry in document["frames"]] == frames
    for entry in document["frames"]:
        labels = read_labels(folder / "masks" / f"{entry['frame']:05d}.png")
        highest = np.zeros(labels.shape)
        expected = np.zeros(labels.shape, int)
        for found in entry["objects"]:
            logits = predictor.logits(entry["frame"], found["id"])
            np.testing.assert_array_equal(decode_rle(found["rle"]), logits > 0)
            assert found["score"] == pytest.approx(1 / (1 + np.exp(-found["id"])), abs=1e-5)
            expected[logits > highest] = found["id"]
            highest = np.maximum(highest, logits)
        np.testing.assert_array_equal(labels, expected)
    with open_frames(folder / "overlay.mp4") as overlay:
        assert len(overlay) == len(frames)


def _centre(folder: Path, frame_idx: int) -> float:
    """Mean x of the pixels changed by the overlay."""
    with open_frames(folder / "overlay.mp4") as overlay:
        frame = overlay[frame_idx].astype(int)
    # The frames are grey, so any colour is the object's.
    return float(np.nonzero(np.ptp(frame, axis=2) > 40)[1].mean())


def test_forward_from_the_first_prompt(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    out = tmp_path / "out"
    prompts = ["--point", "9,9@2", "--point", "20,9,0@2", "--box", "0,0,9,9@5:2"]
    outcome = fastsam2("track", clip, *prompts, "-o", out)
    assert outcome.code == 0
    _check(out, list(range(2, 12)), fake_model)
    assert fake_model.prompts == [
        (2, 1, "[[9.0, 9.0], [20.0, 9.0]] [1 0] None"),
        (5, 2, "None None (0.0, 0.0, 9.0, 9.0)"),
    ]
    assert "10 frames, 2 objects" in outcome.out
    for result in ("overlay.mp4", "masks/00002.png", "tracks.json"):
        assert str(out / result) in outcome.out


def test_start_and_end_bound_the_frames_and_start_is_where_prompts_go(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    options = ["--start", "3", "--end", "6"]
    assert fastsam2("track", clip, "--point", "9,9", *options, "-o", tmp_path / "out").code == 0
    _check(tmp_path / "out", [3, 4, 5, 6], fake_model)
    assert [frame for frame, _, _ in fake_model.prompts] == [3]


def test_backward_the_overlay_still_runs_forward(tmp_path: Path, fake_model: FakePredictor) -> None:
    grey = write_jpegs(tmp_path / "grey", np.full((12, 48, 64, 3), 128, np.uint8))
    options = ["--start", "2", "--end", "8", "--reverse"]
    assert fastsam2("track", grey, "--point", "9,9", *options, "-o", tmp_path / "out").code == 0
    _check(tmp_path / "out", [8, 7, 6, 5, 4, 3, 2], fake_model)
    assert [frame for frame, _, _ in fake_model.prompts] == [8]
    assert _centre(tmp_path / "out", 0) < _centre(tmp_path / "out", 6) - 3


def test_backward_from_frame_zero_is_frame_zero(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    out = tmp_path / "out"
    assert fastsam2("track", clip, "--point", "9,9@0", "--reverse", "-o", out).code == 0
    _check(out, [0], fake_model)


def test_masks_as_prompts(tmp_path: Path, clip: Path, fake_model: FakePredictor) -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[:4, :4] = 3
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0] * 4)
    image.save(tmp_path / "m.png")
    out = tmp_path / "out"
    assert fastsam2("track", clip, "--mask", f"{tmp_path / 'm.png'}@10", "-o", out).code == 0
    assert fake_model.prompts == [(10, 3, "mask of 16")]
    _check(out, [10, 11], fake_model)


def test_the_document_tells_of_the_video(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    options = ["--model", "some-model", "--end", "0", "-o", tmp_path / "out"]
    assert fastsam2("track", clip, "--point", "9,9", *options).code == 0
    document = tracks(tmp_path / "out")
    expected = {"path": str(clip), "frames": 12, "width": 64, "height": 48, "fps": 10.0}
    assert document["video"] == expected
    assert document["model"] == "some-model"
    assert document["complete"] is True


def test_a_damaged_frame_ends_tracking_and_keeps_earlier_results(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(clip.read_bytes())
    damage_frame(damaged, 6)
    outcome = fastsam2("track", damaged, "--point", "9,9", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "frame 6" in outcome.line
    assert "damaged" in outcome.line
    assert "6 frames" in outcome.line
    _check(tmp_path / "out", [0, 1, 2, 3, 4, 5], fake_model)
    assert tracks(tmp_path / "out")["complete"] is False


_STOPS = {"SIGINT": "interrupted", "SIGTERM": "stopped by SIGTERM", "SIGHUP": "stopped by SIGHUP"}


@pytest.mark.parametrize("name", [name for name in _STOPS if hasattr(signal, name)])
@pytest.mark.parametrize("reverse", [False, True])
def test_ctrl_c_and_signals_to_stop_leave_valid_files(
    tmp_path: Path,
    clip: Path,
    fake_model: FakePredictor,
    name: str,
    reverse: bool,
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    def press(frame_idx: int) -> None:
        if frame_idx == 4:
            os.kill(os.getpid(), number)

    fake_model.act = press
    options = ["--reverse"] if reverse else []
    outcome = fastsam2("track", clip, "--point", "9,9", *options, "-o", tmp_path / "out")
    assert outcome.code == 128 + number
    assert _STOPS[name] in outcome.line
    assert signal.getsignal(number) is before
    expected = [11, 10, 9, 8, 7, 6, 5] if reverse else [0, 1, 2, 3]
    assert f"{len(expected)} frames" in outcome.line
    _check(tmp_path / "out", expected, fake_model)
    assert tracks(tmp_path / "out")["complete"] is False


def test_ctrl_c_while_writing_does_not_divide_a_frame(
    tmp_path: Path, clip: Path, fake_model: FakePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastsam2.cli import results

    draw = results.draw_overlay
    calls = iter(range(100))

    def press_and_draw(*args: object) -> object:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "draw_overlay", press_and_draw)
    before = signal.getsignal(signal.SIGINT)
    outcome = fastsam2("track", clip, "--point", "9,9", "-o", tmp_path / "out")
    assert outcome.code == 130
    _check(tmp_path / "out", [0, 1, 2], fake_model)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_before_the_first_frame(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    def press(frame_idx: int) -> None:
        raise KeyboardInterrupt

    fake_model.act = press
    outcome = fastsam2("track", clip, "--point", "9,9", "-o", tmp_path / "out")
    assert (outcome.code, outcome.line) == (130, "fastsam2: interrupted")
    assert tracks(tmp_path / "out")["frames"] == []
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_older_results_are_not_mixed_with_new_ones(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    out = tmp_path / "out"
    run = ["track", clip, "--point", "9,9", "-o", out]
    assert fastsam2(*run).code == 0
    (out / "masks" / "notes.txt").write_text("mine")
    again = fastsam2(*run, "--end", "2")
    assert again.code == 2
    assert "holds results already" in again.line
    assert len(tracks(out)["frames"]) == 12
    assert fastsam2(*run, "--end", "2", "--overwrite").code == 0
    assert _names(out / "masks") == ["00000.png", "00001.png", "00002.png", "notes.txt"]


@pytest.mark.slow
def test_a_running_model(tmp_path: Path, frames: Frames, checkpoint: Path) -> None:
    """Uses the real predictor on small images, forward, then backward from its own mask."""
    folder = write_jpegs(tmp_path / "frames", frames[:4])
    model = ["--model", checkpoint, "--image-size", "128", "--device", "cpu"]
    prompts = ["--point", "9,9", "--point", "30,9@1:2", "--box", "5,5,30,30@1:2"]
    forward, backward = tmp_path / "forward", tmp_path / "backward"
    outcome = fastsam2("track", folder, *prompts, *model, "-o", forward)
    assert outcome.code == 0, outcome.err
    document = tracks(forward)
    assert [entry["frame"] for entry in document["frames"]] == [0, 1, 2, 3]
    assert all(len(entry["objects"]) == 2 for entry in document["frames"])
    assert all(0 < o["score"] < 1 for entry in document["frames"] for o in entry["objects"])
    assert any(o["area"] for entry in document["frames"] for o in entry["objects"])
    mask = forward / "masks" / "00002.png"
    options = ["--end", "2", "--reverse"]
    outcome = fastsam2("track", folder, "--mask", mask, *options, *model, "-o", backward)
    assert outcome.code == 0, outcome.err
    assert [entry["frame"] for entry in tracks(backward)["frames"]] == [2, 1, 0]
    with open_frames(backward / "overlay.mp4") as overlay:
        assert len(overlay) == 3


def test_the_document_is_json_to_any_reader(
    tmp_path: Path, clip: Path, fake_model: FakePredictor
) -> None:
    fastsam2("track", clip, "--point", "9,9", "--end", "1", "-o", tmp_path / "out")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "out" / "tracks.json").read_text()
    json.loads(text, parse_constant=refuse)
