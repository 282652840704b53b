from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from fastsam2.data import live_inputs
from fastsam2.data.live import LiveFrame, LiveSource
from fastsam2.data.open_frames import open_frames
from fastsam2.data.rle import decode_rle
from fastsam2.data.writers import read_labels
from fastsam2.errors import VideoError
from fastsam2.predictors.results import FrameResult
from tests.cli.running import FakePredictor, fake_model, fastsam2, tracks
from tests.data.videos import Frames, decode_in_order, moving_frames, write_jpegs, write_video

__all__ = ["fake_model"]

POINT = ("--point", "9,9")


class FakeStream:
    """Stand-in for a stream predictor and its session."""

    def __init__(self, predictor: FakePredictor) -> None:
        self.predictor = predictor
        self.frames: list[Any] = []
        self.obj_ids: list[int] = []
        self.asked: list[tuple[str, int, int, str]] = []

    def start(self) -> FakeStream:
        return self

    def step(self, frame: Any) -> FrameResult:
        self.predictor.act(len(self.frames))
        self.predictor.size = frame.shape[:2]
        self.frames.append(frame)
        return self._result()

    def add_object(self, obj_id: int, **prompt: Any) -> FrameResult:
        self.obj_ids.append(obj_id)
        return self._asked("add", obj_id, prompt)

    def correct(self, obj_id: int, **prompt: Any) -> FrameResult:
        assert obj_id in self.obj_ids
        return self._asked("correct", obj_id, prompt)

    def _asked(self, what: str, obj_id: int, prompt: dict[str, Any]) -> FrameResult:
        kinds = "+".join(kind for kind, value in prompt.items() if value is not None)
        self.asked.append((what, len(self.frames) - 1, obj_id, kinds))
        return self._result()

    def _result(self) -> FrameResult:
        return self.predictor.result(len(self.frames) - 1, self.obj_ids)


@pytest.fixture
def stream(fake_model: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> FakeStream:
    stream = FakeStream(fake_model)
    monkeypatch.setattr("fastsam2.cli.live.SAM2StreamPredictor", lambda predictor: stream)
    return stream


def _check(folder: Path, frames: list[int], stream: FakeStream, *, begin: int = 0) -> None:
    """Check that the results hold these frames and the masks of the stream."""
    assert sorted(path.name for path in folder.iterdir()) == [
        "masks",
        "overlay.mp4",
        "tracks.json",
    ]
    document = tracks(folder)
    assert [entry["frame"] for entry in document["frames"]] == frames
    names = sorted(path.name for path in (folder / "masks").iterdir())
    assert names == [f"{frame_idx:05d}.png" for frame_idx in frames]
    for entry in document["frames"]:
        labels = read_labels(folder / "masks" / f"{entry['frame']:05d}.png")
        for found in entry["objects"]:
            logits = stream.predictor.logits(entry["frame"] - begin, found["id"])
            np.testing.assert_array_equal(decode_rle(found["rle"]), logits > 0)
            assert found["id"] in labels
    with open_frames(folder / "overlay.mp4") as overlay:
        assert len(overlay) == len(frames)


def test_a_file_as_a_stream(tmp_path: Path, clip: Path, stream: FakeStream) -> None:
    out = tmp_path / "out"
    outcome = fastsam2("track", clip, "--stream", *POINT, "-o", out)
    assert outcome.code == 0, outcome.err
    _check(out, list(range(12)), stream)
    for frame, expected in zip(stream.frames, decode_in_order(clip), strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert "12 frames, 1 object, " in outcome.out
    assert "frames/s, 0 dropped\n" in outcome.out
    document = tracks(out)
    assert document["complete"] is True
    size = {"width": 64, "height": 48, "fps": 10.0}
    assert document["video"] == {"path": str(clip), "frames": None, **size}
    times = [entry["time"] for entry in document["frames"]]
    assert times == pytest.approx([index / 10 for index in range(12)])


def test_prompts_on_later_frames_add_objects_and_correct_them(
    tmp_path: Path, clip: Path, stream: FakeStream
) -> None:
    prompts = ["--point", "9,9@2", "--box", "1,1,9,9@5:2", "--point", "8,8,0@7", "--point", "3,3@7"]
    outcome = fastsam2("track", clip, "--stream", *prompts, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    # Frames before the first prompt are counted, but not tracked.
    assert stream.asked == [
        ("add", 0, 1, "points+labels"),
        ("add", 3, 2, "box"),
        ("correct", 5, 1, "points+labels"),
    ]
    _check(tmp_path / "out", list(range(2, 12)), stream, begin=2)
    counts = [len(entry["objects"]) for entry in tracks(tmp_path / "out")["frames"]]
    assert counts == [1] * 3 + [2] * 7
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as overlay:
        first, *_ = overlay.decode(video=0)
        assert first.time == 0


def test_frames_ends_a_stream(tmp_path: Path, clip: Path, stream: FakeStream) -> None:
    options = ["--stream", "--frames", "4", *POINT]
    assert fastsam2("track", clip, *options, "-o", tmp_path / "out").code == 0
    _check(tmp_path / "out", [0, 1, 2, 3], stream)
    assert tracks(tmp_path / "out")["complete"] is True


def test_stdin_is_a_stream(
    tmp_path: Path, frames: Frames, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_video(tmp_path / "clip.mkv", frames).read_bytes()
    stdin = SimpleNamespace(buffer=io.BytesIO(content))
    monkeypatch.setattr(live_inputs, "sys", SimpleNamespace(stdin=stdin))
    outcome = fastsam2("track", "-", *POINT, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    _check(tmp_path / "out", list(range(12)), stream)


class _Camera(LiveSource):
    """Camera that delivers frames 0, 1, 4 and 9; the others are dropped."""

    def __init__(self, name: str, policy: str | None) -> None:
        self.asked = name, policy
        super().__init__(self._frames(), policy)

    def _frames(self) -> Iterator[Frames]:
        for _ in range(4):
            yield np.full((48, 64, 3), 128, np.uint8)

    @property
    def name(self) -> str:
        return "camera:0"

    @property
    def fps(self) -> float:
        return 10.0

    dropped, damaged = 6, 1

    def __next__(self) -> LiveFrame:
        image = super().__next__().image
        self.times = getattr(self, "times", [0.0, 0.1, 0.4, 0.9])
        return LiveFrame(self.times.pop(0), image)


def test_a_camera_that_drops_frames(
    tmp_path: Path, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastsam2.cli.live.LiveSource", _Camera)
    options = ["--policy", "queue", *POINT, "-o", tmp_path / "out"]
    outcome = fastsam2("track", "camera:0", *options)
    assert outcome.code == 0, outcome.err
    assert "4 frames, 1 object, " in outcome.out
    assert "frames/s, 6 dropped, 1 damaged\n" in outcome.out
    times = [entry["time"] for entry in tracks(tmp_path / "out")["frames"]]
    assert times == [0.0, 0.1, 0.4, 0.9]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as overlay:
        # The overlay is as long as the recording.
        assert [frame.time for frame in overlay.decode(video=0)] == pytest.approx(times)


def test_policies_reach_the_source(
    tmp_path: Path, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(name: str, policy: str | None) -> None:
        asked.append((name, policy))
        raise VideoError("no")

    monkeypatch.setattr("fastsam2.cli.live.LiveSource", refuse)
    for arguments in (["camera:0"], ["rtsp://h/x", "--policy", "queue"], ["-", "--policy", "drop"]):
        outcome = fastsam2("track", *arguments, *POINT, "-o", tmp_path / "out")
        assert (outcome.code, outcome.line) == (1, "fastsam2: no")
    assert asked == [("camera:0", None), ("rtsp://h/x", "queue"), ("-", "drop")]


def test_ctrl_c_leaves_valid_files(tmp_path: Path, clip: Path, stream: FakeStream) -> None:
    def press(frame_idx: int) -> None:
        if frame_idx == 4:
            os.kill(os.getpid(), signal.SIGINT)

    stream.predictor.act = press
    out = tmp_path / "out"
    outcome = fastsam2("track", clip, "--stream", *POINT, "-o", out)
    assert outcome.code == 130
    assert outcome.line == f"fastsam2: interrupted; the 4 frames done by then: see {out}"
    assert "4 frames, 1 object, " in outcome.out  # Ctrl-C is the usual end of a camera
    _check(out, [0, 1, 2, 3], stream)
    assert tracks(out)["complete"] is False


def test_a_source_that_breaks_off_leaves_valid_files(
    tmp_path: Path, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(_Camera):
        def _frames(self) -> Iterator[Frames]:
            yield from super()._frames()
            raise VideoError("camera:0 broke off after 4 frames: No such device")

    monkeypatch.setattr("fastsam2.cli.live.LiveSource", Lost)
    out = tmp_path / "out"
    outcome = fastsam2("track", "camera:0", *POINT, "-o", out)
    assert outcome.code == 1
    assert "broke off after 4 frames: No such device; the 4 frames done by then" in outcome.line
    _check(out, [0, 1, 2, 3], stream)
    assert tracks(out)["complete"] is False


def test_a_prompt_whose_frame_never_comes(tmp_path: Path, clip: Path, stream: FakeStream) -> None:
    prompts = [*POINT, "--point", "9,9@12:2"]
    outcome = fastsam2("track", clip, "--stream", *prompts, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "clip.mp4 ended before frame 12, on which object 2 has a prompt" in outcome.line
    _check(tmp_path / "out", list(range(12)), stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream"], "no prompts"),
        (["--stream", *POINT, "--reverse"], "--reverse needs a video of known length"),
        (["--stream", *POINT, "--start", "0"], "--start needs a video of known length"),
        (["--stream", *POINT, "--end", "5"], "--end needs a video of known length"),
        (["--stream", *POINT, "--policy", "both"], "unknown policy 'both'"),
        (["--stream", *POINT, "--frames", "0"], "--frames"),
        (["--stream", "--point", "99,9"], "lies outside"),
        (["--stream", "--frames", "3", "--point", "9,9@3"], "there is no frame 3"),
        ([*POINT, "--policy", "drop"], "--policy drop applies to live sources only"),
        ([*POINT, "--frames", "3"], "--frames 3 applies to live sources only"),
        (["camera:0", *POINT], "2 sources: only one live source"),
    ],
)
def test_bad_arguments_exit_with_2(
    tmp_path: Path, clip: Path, stream: FakeStream, arguments: list[str], message: str
) -> None:
    outcome = fastsam2("track", clip, *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.line
    assert not (tmp_path / "out" / "tracks.json").exists()


def test_older_results_are_kept(tmp_path: Path, clip: Path, stream: FakeStream) -> None:
    run = ["track", clip, "--stream", *POINT, "-o", tmp_path / "out"]
    assert fastsam2(*run).code == 0
    again = fastsam2(*run)
    assert again.code == 2
    assert "holds results already" in again.line
    assert fastsam2(*run, "--overwrite").code == 0


@pytest.mark.slow
def test_a_running_model(tmp_path: Path, checkpoint: Path) -> None:
    """Uses the real predictors, on a file read as a stream and as a video."""
    # Long enough for the fifth frame to be independent of the number of frames.
    video = write_video(tmp_path / "clip.mkv", moving_frames(20))
    model = ["--model", checkpoint, "--image-size", "128", "--device", "cpu"]
    run = ["track", video, *POINT, *model, "-o"]
    outcome = fastsam2(*run, tmp_path / "live", "--stream", "--frames", "5")
    assert outcome.code == 0, outcome.err
    assert fastsam2(*run, tmp_path / "video", "--end", "4").code == 0
    live, known = tracks(tmp_path / "live"), tracks(tmp_path / "video")
    for entry, other in zip(live["frames"], known["frames"], strict=True):
        (ours,), (theirs,) = entry["objects"], other["objects"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-3)
        differ = decode_rle(ours["rle"]) != decode_rle(theirs["rle"])
        assert differ.mean() < 0.01  # pixels on the boundary may flip by rounding
    assert any(entry["objects"][0]["area"] for entry in live["frames"])
    more = ["--point", "30,9@1:2", "--box", "5,5,30,30@1:2", "--point", "8,8@2"]
    outcome = fastsam2(*run, tmp_path / "more", "--stream", "--frames", "4", *more)
    assert outcome.code == 0, outcome.err
    assert [len(entry["objects"]) for entry in tracks(tmp_path / "more")["frames"]] == [1, 2, 2, 2]


def test_a_folder_cannot_be_streamed(tmp_path: Path, frames: Frames, stream: FakeStream) -> None:
    folder = write_jpegs(tmp_path / "frames", frames[:2])
    outcome = fastsam2("track", folder, "--stream", *POINT, "-o", tmp_path / "out")
    assert (outcome.code, outcome.line) == (1, f"fastsam2: not a file: {folder}")
