from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam2.data.images import image_files
from fastsam2.data.open_frames import FrameSource, open_frames
from fastsam2.errors import VideoError
from tests.data.videos import moving_frames, write_jpegs

FRAMES = moving_frames(12)


def _pil(path: Path) -> np.ndarray[Any, Any]:
    return np.array(Image.open(path).convert("RGB"))


def test_a_folder_of_numbered_jpegs_is_sorted_by_number(tmp_path: Path) -> None:
    names = [f"{index}.jpg" for index in range(12)]
    write_jpegs(tmp_path, FRAMES, names)
    source = open_frames(tmp_path)
    assert len(source) == 12
    for index, name in enumerate(names):
        np.testing.assert_array_equal(source[index], _pil(tmp_path / name))


def test_other_names_are_sorted_naturally(tmp_path: Path) -> None:
    names = [f"frame_{index}.png" for index in range(12)]
    write_jpegs(tmp_path, FRAMES, names)
    np.testing.assert_array_equal(np.stack(list(open_frames(str(tmp_path)))), FRAMES)


def _names(folder: Path, stems: list[str]) -> list[str]:
    for stem in stems:
        (folder / f"{stem}.png").touch()
    return [path.stem for path in image_files(folder)]


@pytest.mark.parametrize(
    "stems",
    [
        ["1700000000.125", "1700000000.25", "1700000000.5", "1700000001.0"],
        ["-0.5", "1e-05", "0.0001", "0.01"],
        ["00.50", "00.75", "01.00"],
        ["shot_1.9", "shot_1.10", "shot_1.11", "shot_2.1"],
        ["t0.25", "t0.50", "t1.00"],
        ["v1.5_frame9", "v1.5_frame10"],
    ],
)
def test_decimals_are_sorted_by_value_and_counters_by_count(
    tmp_path: Path, stems: list[str]
) -> None:
    assert _names(tmp_path, stems) == stems


@pytest.mark.parametrize("stems", [["1.9", "1.10"], ["t0.5", "t0.25"], ["shot 1.5", "shot 1.25"]])
def test_an_order_that_is_not_clear_is_refused(tmp_path: Path, stems: list[str]) -> None:
    with pytest.raises(VideoError, match=rf"not clear: {stems[0]}\.png and {stems[1]}\.png"):
        _names(tmp_path, stems)


def test_png_beside_jpeg_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jpegs(tmp_path, FRAMES[:2])
    open_frames(tmp_path)
    assert not caplog.messages
    write_jpegs(tmp_path, FRAMES[:1], ["0.png"])
    assert len(open_frames(tmp_path)) == 2
    assert caplog.messages == [
        f"{tmp_path}: the frames are the JPEG images (2); the PNG images (1) are ignored"
    ]


def test_other_files_in_a_folder_are_ignored(tmp_path: Path) -> None:
    write_jpegs(tmp_path, FRAMES[:2], ["0.jpg", "1.JPEG"])
    (tmp_path / "._0.jpg").write_bytes(b"resource fork")
    (tmp_path / "notes.txt").write_text("notes")
    write_jpegs(tmp_path, FRAMES[:1], ["0.png"])
    assert len(open_frames(tmp_path)) == 2


def test_two_images_for_one_frame_are_refused(tmp_path: Path) -> None:
    write_jpegs(tmp_path, FRAMES[:2], ["1.jpg", "01.jpg"])
    with pytest.raises(VideoError, match=r"01\.jpg, 1\.jpg"):
        open_frames(tmp_path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=f"no JPEG or PNG images in the folder {tmp_path}"):
        open_frames(tmp_path)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(FRAMES[0]).save(tmp_path / "0.jpg", exif=exif)
    assert open_frames(tmp_path)[0].shape == FRAMES[0].shape


def _generator() -> Iterator[Any]:
    yield from FRAMES


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: FRAMES,
        lambda folder: torch.from_numpy(FRAMES),
        lambda folder: list(FRAMES),
        lambda folder: tuple(torch.from_numpy(FRAMES)),
        lambda folder: [Image.fromarray(frame) for frame in FRAMES],
        lambda folder: sorted(folder.iterdir()),
        lambda folder: [str(path) for path in sorted(folder.iterdir())],
        lambda folder: [*FRAMES[:6], *sorted(folder.iterdir())[6:]],
        lambda folder: _generator(),
        lambda folder: (Image.fromarray(frame) for frame in FRAMES),
    ],
    ids=["array", "tensor", "list", "tensors", "pil", "paths", "strings", "mixed", "it", "it-pil"],
)
def test_every_kind_of_source_gives_the_same_frames(tmp_path: Path, make: Any) -> None:
    write_jpegs(tmp_path, FRAMES, [f"{index:02d}.png" for index in range(12)])
    with open_frames(make(tmp_path)) as source:
        assert (len(source), source.height, source.width, source.fps) == (12, 48, 64, None)
        for frame_idx in (11, 0, 5, 5, 4):
            np.testing.assert_array_equal(source[frame_idx], FRAMES[frame_idx])


def test_a_source_is_passed_through() -> None:
    source = open_frames(FRAMES)
    assert open_frames(source) is source


def test_an_array_in_a_list_stays_writeable() -> None:
    frame = FRAMES[0].copy()
    assert not open_frames([frame])[0].flags.writeable
    frame[0] = 0


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "list of frames is empty"),
        (iter([]), "iterator of frames is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"empty: shape \[0, 8, 8, 3\]"),
        (np.zeros((2, 8, 8, 3), np.float32), r"not float32 \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"not uint8 \[2, 3, 8, 8\]"),
        (np.zeros((8, 8, 3), np.uint8), r"\[T, H, W, 3\], not uint8 \[8, 8, 3\]"),
        ([np.zeros((8, 8), np.uint8)], r"frame 0 must .* not uint8 \[8, 8\]"),
        ([np.zeros((8, 8, 3), np.uint8), 7], "frame 1 must .* not int"),
        (7, "type int"),
        ("http://127.0.0.1:9/x.mp4", r"http://127\.0\.0\.1:9/x\.mp4 is a URL: .*LiveSource"),
        (io.BytesIO(b"video"), r"open file \(BytesIO\): pass its path, or its content"),
        (os.fsencode(__file__), "test_open_frames.py' is a path: pass it as a str"),
        ({"a": 1}, "type dict"),
    ],
)
def test_unreadable_videos_are_named(video: Any, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_frames(video)


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jpegs(tmp_path / "frames", FRAMES[:2])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(open_frames("~/frames")) == 2
    with pytest.raises(VideoError, match="no such file or folder: ~nobody-here/frames"):
        open_frames("~nobody-here/frames")


@pytest.mark.parametrize("kind", ["list", "images", "iterator", "folder", "unheld folder"])
def test_frames_of_another_size_are_named_when_opened(tmp_path: Path, kind: str) -> None:
    frames = [FRAMES[0], FRAMES[1], FRAMES[2][:40]]
    videos = {
        "list": frames,
        "images": [Image.fromarray(frame) for frame in frames],
        "iterator": iter(frames),
    }
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.jpg")
    room = {"held_bytes": 0} if kind == "unheld folder" else {}
    with pytest.raises(VideoError, match=r"frame 2 .* 64x40 .* 64x48") as caught:
        open_frames(videos.get(kind, tmp_path), **room)
    assert caught.value.frame_idx == 2


def test_a_damaged_image_in_the_middle(tmp_path: Path) -> None:
    write_jpegs(tmp_path, FRAMES)
    damaged = tmp_path / "00005.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    source = open_frames(tmp_path)
    for frame_idx in (4, 6):
        np.testing.assert_array_equal(source[frame_idx], _pil(tmp_path / f"{frame_idx:05d}.jpg"))
    with pytest.raises(VideoError, match=r"00005\.jpg") as caught:
        source[5]
    assert caught.value.frame_idx == 5


def test_sixteen_bits_a_channel_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(VideoError, match=r"0\.png: .*8 bits per channel"):
        open_frames(tmp_path)


def test_an_iterator_lies_on_disk_not_in_memory() -> None:
    source = open_frames(frame for frame in FRAMES)
    base: Any = source[3]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_many_threads_read_the_right_frames(tmp_path: Path) -> None:
    write_jpegs(tmp_path, FRAMES, [f"{index}.png" for index in range(12)])
    source: FrameSource = open_frames(tmp_path, cache_bytes=3 * FRAMES[0].nbytes)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for frame_idx in np.random.default_rng(seed).integers(0, 12, 40):
            if not np.array_equal(source[int(frame_idx)], FRAMES[frame_idx]):
                wrong.append(int(frame_idx))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _overwrite(folder: Path) -> None:
    write_jpegs(folder, FRAMES[::-1], [f"{index}.png" for index in range(12)])


@pytest.mark.parametrize("change", [shutil.rmtree, _overwrite], ids=["deleted", "reused"])
def test_a_folder_keeps_its_frames_after_it_was_opened(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = write_jpegs(tmp_path / "frames", FRAMES, [f"{index}.png" for index in range(12)])
    source = open_frames(folder, cache_bytes=1)
    change(folder)
    np.testing.assert_array_equal(np.stack(list(source)), FRAMES)


def test_images_beyond_the_budget_must_not_change(tmp_path: Path) -> None:
    folder = write_jpegs(tmp_path / "frames", FRAMES, [f"{index}.png" for index in range(12)])
    room = sum((folder / f"{index}.png").stat().st_size for index in range(3))
    source = open_frames(folder, cache_bytes=1, held_bytes=room)
    np.testing.assert_array_equal(source[7], FRAMES[7])
    _overwrite(folder)
    (folder / "8.png").unlink()
    np.testing.assert_array_equal(source[2], FRAMES[2])
    with pytest.raises(VideoError, match=r"7\.png has changed since the video was opened"):
        source[7]
    with pytest.raises(VideoError, match=r"no such image: .*8\.png") as caught:
        source[8]
    assert caught.value.frame_idx == 8


@pytest.mark.parametrize("make", [np.asarray, list], ids=["array", "list"])
def test_arrays_keep_their_frames_and_must_not_change_beyond_the_budget(make: Any) -> None:
    frames = FRAMES.copy()
    given = make(frames)
    source = open_frames(given, cache_bytes=1)
    again = open_frames(given, cache_bytes=1, held_bytes=3 * FRAMES[0].nbytes)
    np.testing.assert_array_equal(again[5], FRAMES[5])
    frames[:] = FRAMES[::-1]
    np.testing.assert_array_equal(np.stack(list(source)), FRAMES)
    np.testing.assert_array_equal(again[2], FRAMES[2])
    with pytest.raises(VideoError, match=r"frame 5 of the .* of frames has changed") as caught:
        again[5]
    assert caught.value.frame_idx == 5


def test_a_read_only_array_is_not_copied() -> None:
    frames = FRAMES.copy()
    frames.flags.writeable = False
    assert np.shares_memory(open_frames(frames)[3], frames)
