"""Bad input gives one line on stderr, the right exit code and no results."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.running import fastsam2
from tests.data.videos import write_audio

POINT = ("--point", "9,9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompts"),
        (["--point", "64,9"], "--point 64,9 lies outside clip.mp4, which is 64x48"),
        (["--point", "nan,9"], "not a finite number"),
        (["--point", "9,9@12"], "no frame 12; clip.mp4 has frames 0 to 11"),
        (["--point", "hello"], "cannot read --point 'hello'"),
        (["--box", "9,9,5,5"], "--box 9,9,5,5 is empty"),
        (["--mask", "none.png"], "no such mask: none.png"),
        ([*POINT, "--start", "12"], "--start 12: clip.mp4 has frames 0 to 11"),
        ([*POINT, "--end", "99"], "--end 99: clip.mp4 has frames 0 to 11"),
        ([*POINT, "--start", "5", "--end", "3"], "--start 5 lies after --end 3"),
        (["--point", "9,9@8", "--end", "3"], "prompt on frame 8, outside the frames to track"),
        ([*POINT, "--start", "-1"], "--start"),
        ([*POINT, "--model", "sam3-huge"], "unknown model 'sam3-huge'"),
        ([*POINT, "--checkpoint", "x.pt", "--dtype", "int8"], "unknown --dtype int8"),
        ([*POINT, "--frobnicate"], "No such option: --frobnicate"),
    ],
)
def test_bad_arguments_exit_with_2(
    tmp_path: Path, clip: Path, arguments: list[str], message: str
) -> None:
    outcome = fastsam2("track", clip, *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.line
    assert not (tmp_path / "out" / "tracks.json").exists()


def test_missing_arguments_and_commands_exit_with_2(clip: Path) -> None:
    for arguments in (["track"], ["track", clip], ["trakc"], ["segment", clip]):
        outcome = fastsam2(*arguments)
        assert outcome.code == 2
        assert "--help" in outcome.line


def _missing(folder: Path) -> Path:
    return folder / "missing.mp4"


def _empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def _text(folder: Path) -> Path:
    (folder / "text.mp4").write_text("not a video, " * 100)
    return folder / "text.mp4"


def _audio(folder: Path) -> Path:
    return write_audio(folder / "sound.m4a")


def _no_images(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "no such file or folder"),
        (_empty, "the file is empty (0 bytes)"),
        (_text, "cannot read"),
        (_audio, "audio but no video"),
        (_no_images, "no JPEG or PNG images"),
    ],
)
def test_unreadable_videos_exit_with_1(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    video = make(tmp_path)
    outcome = fastsam2("track", video, *POINT, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert message in outcome.line
    assert str(video) in outcome.line


def test_a_truncated_video_exits_with_1(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:400])
    outcome = fastsam2("track", tmp_path / "cut.mp4", *POINT, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "truncated" in outcome.line


def test_an_output_folder_that_cannot_be_written_exits_with_1(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "file").touch()
    outcome = fastsam2("track", clip, *POINT, "-o", tmp_path / "file" / "out")
    assert outcome.code == 1
    assert f"cannot write to the folder {tmp_path / 'file' / 'out'}" in outcome.line


def test_a_missing_checkpoint_exits_with_1(tmp_path: Path, clip: Path) -> None:
    outcome = fastsam2("track", clip, *POINT, "-m", tmp_path / "none.pt", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "none.pt" in outcome.line


def test_an_invalid_checkpoint_exits_with_1(tmp_path: Path, clip: Path) -> None:
    for name, content in (("text.pt", b"hello"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        outcome = fastsam2("track", clip, *POINT, "-m", tmp_path / name, "-o", tmp_path / "out")
        assert outcome.code == 1
        assert name in outcome.line


@pytest.mark.slow
def test_the_checkpoint_of_another_model_exits_with_1(
    tmp_path: Path, clip: Path, checkpoint: Path
) -> None:
    model = ["--model", "sam2.1-large", "--checkpoint", checkpoint]
    outcome = fastsam2("track", clip, *POINT, *model, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "do not fit the model (they look like sam2.1-tiny)" in outcome.line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none_exits_with_1(
    tmp_path: Path, clip: Path, checkpoint: Path
) -> None:
    model = ["-m", checkpoint, "--device", "cuda"]
    outcome = fastsam2("track", clip, *POINT, *model, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "no CUDA" in outcome.line


def test_an_image_size_the_model_cannot_have_exits_with_2(
    tmp_path: Path, clip: Path, checkpoint: Path
) -> None:
    model = ["-m", checkpoint, "--image-size", "100"]
    outcome = fastsam2("track", clip, *POINT, *model, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "100" in outcome.line


def test_errors_of_the_program_itself_are_named_with_their_place(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("fastsam2.cli.track.Canvas", broken)
    outcome = fastsam2("track", clip, *POINT, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "unexpected error, RuntimeError in test_bad_input.py line" in outcome.line
    assert outcome.line.endswith(": a bug")


def _large(folder: Path, side: int) -> Path:
    """PNG of which only the header is there."""
    path = folder / "large.png"
    Image.new("1", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("side", "message"),
    [(20_000, "exceeds limit"), (9_000, "is 9000x9000 pixels, but clip.mp4 is 64x48")],
)
def test_a_huge_mask_exits_with_2(tmp_path: Path, clip: Path, side: int, message: str) -> None:
    mask = _large(tmp_path, side)
    outcome = fastsam2("track", clip, "--mask", mask, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.line
    assert str(mask) in outcome.line


@pytest.mark.parametrize("suffix", ["@" + 5000 * "9", ":" + 5000 * "9"])
def test_an_endless_number_exits_with_2(tmp_path: Path, clip: Path, suffix: str) -> None:
    outcome = fastsam2("track", clip, "--point", "9,9" + suffix, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "cannot read --point '9,9" in outcome.line
    assert len(outcome.line) < 2100


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (MemoryError("Unable to allocate 64. GiB"), "out of memory: try a smaller --image-size"),
        (KeyError("a"), "unexpected error, KeyError in test_bad_input.py line"),
    ],
)
@pytest.mark.parametrize("command", ["track", "segment", "eval", "info"])
def test_any_error_of_any_command_is_one_line(
    tmp_path: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    error: Exception,
    message: str,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("fastsam2.cli.track.open_frames", fail)
    monkeypatch.setattr("fastsam2.cli.segment.read_image", fail)
    monkeypatch.setattr("fastsam2.cli.evaluate.open_davis", fail)
    monkeypatch.setattr("fastsam2.cli.info.info", fail)
    arguments = {
        "track": [clip, *POINT, "-o", tmp_path / "out"],
        "segment": [clip, *POINT, "-o", tmp_path / "out"],
        "eval": [tmp_path],
        "info": [],
    }
    outcome = fastsam2(command, *arguments[command])
    assert outcome.code == 1
    assert message in outcome.line


def test_segment_names_the_prompts_that_it_takes(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    outcome = fastsam2("segment", tmp_path / "a.png", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "use --point or --box to select" in outcome.line
