"""Generated calls of the program: results are complete, or the error is one line."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.running import FakePredictor, fake_model, fastsam2, tracks
from tests.data.videos import Frames, write_audio, write_jpegs, write_video

__all__ = ["fake_model"]

_VALUES: dict[str, Sequence[str]] = {
    "--point": [
        "9,9",
        "9,9,0@3:2",
        "63.5,47",
        "64,9",
        "-1,3",
        "nan,1",
        "1e999,2",
        "9,9@99",
        "é",
        "",
    ],
    "--box": [
        "1,1,30,30",
        "1,1,30,30@2:3",
        "5,5,5,5",
        "0,0,64,48",
        "0,0,65,48",
        "1,2,3",
        "@",
        ":1",
    ],
    "--mask": [
        "{folder}/mask.png",
        "{folder}/mask.png@1:7",
        "{folder}/small.png",
        "{folder}",
        "no",
    ],
    "--start": ["0", "2", "99", "-1", "x", "9" * 5000],
    "--end": ["5", "0", "11", "99", "1.5"],
    "--frames": ["1", "4", "0", "9" * 30],
    "--policy": ["drop", "queue", "other"],
    "--model": ["sam2.1-tinny", "nano", "", "{folder}/text.mp4", "{folder}"],
    "--dtype": ["float32", "int8"],
    "--image-size": ["256", "0", "x"],
}
_FLAGS = ["--reverse", "--overwrite", "--fast", "--frobnicate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_video(folder / "clip.mp4", frames)
    write_video(folder / "late.mkv", frames, start=30)
    write_jpegs(folder / "frames", frames[:4])
    write_jpegs(folder / "unclear", frames[:2], ["t0.5.jpg", "t0.25.jpg"])
    write_jpegs(folder, (frames[:1, :, :, :] > 127).astype("uint8") * 255, ["image.jpg"])
    (folder / "text.mp4").write_text("not a video, " * 100)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:900])
    write_audio(folder / "sound.m4a")
    Image.new("1", (64, 48), 1).save(folder / "mask.png")
    Image.new("1", (32, 48), 1).save(folder / "small.png")
    return folder


def _call(generator: random.Random, folder: Path) -> list[str]:
    names = [*sorted(path.name for path in folder.iterdir()), "missing.mp4", "", "~nobody/x.mp4"]
    # Mostly the clip and a good prompt, so that every check is reached.
    name = "clip.mp4" if generator.random() < 0.4 else generator.choice(names)
    arguments = [str(folder / name) if name else ""]
    if generator.random() < 0.7:
        arguments += ["--point", "9,9"]
    for option in generator.sample(list(_VALUES), generator.randint(0, 2)):
        arguments += [option, generator.choice(_VALUES[option]).format(folder=folder)]
    if generator.random() < 0.4:
        arguments.append(generator.choice(_FLAGS))
    return arguments


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_generated_calls(
    tmp_path: Path,
    folder: Path,
    fake_model: FakePredictor,
    seed: int,
) -> None:
    generator = random.Random(seed)
    complete = 0
    for number in range(50):
        arguments = _call(generator, folder)
        out = tmp_path / str(number)
        outcome = fastsam2("track", *arguments, "-o", out)
        if outcome.code == 0:
            document = tracks(out)
            assert document["complete"] is True
            assert document["frames"], arguments
            complete += 1
            continue
        assert outcome.code in (1, 2), (arguments, outcome)
        assert "unexpected error" not in outcome.line, (arguments, outcome)
    assert complete >= 5
