from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from fastsam2.data.palette import davis_palette
from fastsam2.data.writers import read_labels
from fastsam2.errors import InputError
from fastsam2.nano.levels import LEVELS
from fastsam2.nano.motion import Motion, absent_windows
from fastsam2.nano.shapes import Shape, ellipse
from fastsam2.nano.sprites import Look, make_sprite, paint
from fastsam2.nano.synthetic import Clip, main, make_clip, make_scene, write_davis
from fastsam2.nano.textures import make_palette, texture_bank

SIZE = 128


def areas(labels: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    """Number of pixels of objects 1..count, `[count]`."""
    return np.bincount(labels.ravel(), minlength=count + 1)[1 : count + 1]


def centre(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.argwhere(mask).mean(axis=0)


@pytest.mark.parametrize("level", LEVELS)
def test_a_clip_is_the_same_for_a_seed_and_another_for_another(level: int) -> None:
    clip, again, other = (make_clip(seed, 4, level=level, size=SIZE) for seed in (5, 5, 6))
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.labels, again.labels)
    assert (clip.frames != other.frames).mean() > 0.5
    assert (clip.labels != other.labels).any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("frames", "size"), [(1, 64), (2, 100), (7, SIZE)])
def test_frames_and_labels_have_their_shapes(level: int, frames: int, size: int) -> None:
    clip = make_clip(3, frames, level=level, size=size)
    assert clip.frames.shape == (frames, size, size, 3)
    assert clip.labels.shape == (frames, size, size)
    assert clip.frames.dtype == clip.labels.dtype == np.uint8
    low, high = LEVELS[level].objects
    assert low <= clip.objects <= high
    assert clip.labels.max() <= clip.objects


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("objects", [None, 1, 5, 16])
def test_every_object_is_visible_on_frame_0(level: int, objects: int | None) -> None:
    for seed in range(8 if objects is None else 2):
        clip = make_clip(seed, 3, level=level, size=SIZE, objects=objects, absences=1.0)
        if objects is not None:
            assert clip.objects == objects
        needed = (0.01 if level == 1 else 0.003) * SIZE * SIZE
        assert areas(clip.labels[0], clip.objects).min() >= needed


@pytest.mark.parametrize("level", LEVELS)
def test_objects_move(level: int) -> None:
    clip = make_clip(1, 24, level=level, size=SIZE, absences=0.0)
    for label in range(1, clip.objects + 1):
        seen = [centre(mask) for mask in clip.labels == label if mask.sum() > 20]
        assert np.ptp(seen, axis=0).max() > 0.1 * SIZE


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("frames", [3, 8, 32, 100])
def test_absent_objects_disappear_and_return(level: int, frames: int) -> None:
    for seed in range(3):
        clip = make_clip(seed, frames, level=level, size=64, objects=1, absences=1.0)
        present = (clip.labels == 1).any(axis=(1, 2))
        assert present[0]
        assert not present.all()
        assert present[int(np.argmin(present)) :].any()


def test_of_two_frames_an_absent_object_is_on_the_first() -> None:
    clip = make_clip(0, 2, size=64, objects=2, absences=1.0)
    assert not clip.labels[1].any()
    assert absent_windows(np.random.default_rng(0), 1) == []


def test_without_absences_a_lone_object_stays() -> None:
    for seed in range(3):
        clip = make_clip(seed, 40, size=64, objects=1, absences=0.0)
        assert (clip.labels == 1).any(axis=(1, 2)).all()


def test_a_label_is_exactly_where_the_object_hides_the_background() -> None:
    """Compare labels with the coverage found from two drawings that differ in the background."""
    for seed in range(4):
        scene = make_scene(seed, 9, size=SIZE)
        canvas = scene.background.canvas
        black, white = (
            replace(scene, background=replace(scene.background, canvas=np.full_like(canvas, value)))
            for value in (0, 255)
        )
        for t in (0, 4, 8):
            on_black, labels = black.draw(t)
            on_white, same = white.draw(t)
            np.testing.assert_array_equal(labels, same)
            through = (on_white.astype(int) - on_black).mean(axis=2) / 255
            # Where two edges cross, each may cover less than half, but both together more.
            assert ((labels > 0) == (through <= 0.5)).mean() > 0.999
            inside = ndimage.binary_erosion(labels > 0, iterations=2)
            outside = ~ndimage.binary_dilation(labels > 0, iterations=2)
            assert through[inside].max(initial=0) < 0.01
            assert through[outside].min() > 0.99


def plain_sprite(red: int) -> tuple[Shape, Look]:
    palette = make_palette(np.array([[red / 255, 0, 0]] * 2))
    return Shape((ellipse(0.6),)), Look(("cloud",), (palette,), 0.5, 0.0)


def motion_of(x: float, y: float, radius: float, angle: float, speed: float = 0.0) -> Motion:
    ones, t = np.ones(3), np.arange(3, dtype=np.float64)
    return Motion(x + speed * (t - 1), y * ones, radius * ones, angle * ones, ones)


@pytest.mark.parametrize("radius", [6.0, 17.3, 60.0])
def test_a_painted_ellipse_is_that_ellipse(radius: float) -> None:
    shape, look = plain_sprite(255)
    sprite = make_sprite(np.random.default_rng(0), shape, look, radius)
    frame, labels = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    x, y, angle = 60.2, 66.7, 0.7
    paint(frame, labels, sprite, motion_of(x, y, radius, angle), 1, 4)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    u = (np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)) / radius
    v = (np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)) / radius
    level = np.hypot(u, v / 0.6)
    truth = level <= 1
    # Only pixels with a centre within a quarter pixel of the outline may differ.
    margin = 0.25 / (0.6 * radius)
    sure = np.abs(level - 1) > margin
    np.testing.assert_array_equal((labels == 4)[sure], truth[sure])
    np.testing.assert_array_equal(labels == 4, frame[..., 0] >= 128)
    soft = (frame[..., 0] > 0) & (frame[..., 0] < 255)
    rim = ndimage.binary_dilation(truth, iterations=2) & ~ndimage.binary_erosion(
        truth, iterations=2
    )
    assert soft.any()
    assert not (soft & ~rim).any()


def test_later_layers_hide_earlier_ones() -> None:
    shape, look = plain_sprite(200)
    sprite = make_sprite(np.random.default_rng(0), shape, look, 20)
    frame, labels = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    paint(frame, labels, sprite, motion_of(50, 64, 20, 0), 1, 1)
    before = int((labels == 1).sum())
    paint(frame, labels, sprite, motion_of(60, 64, 20, 0), 1, 2)
    assert int((labels == 2).sum()) == pytest.approx(before, rel=0.02)
    assert 0 < (labels == 1).sum() < before
    paint(frame, labels, sprite, motion_of(60, 64, 20, 0), 1, 0)  # not an object
    assert not (labels == 2).any()
    paint(frame, labels, sprite, motion_of(-300, 64, 20, 0), 1, 3)
    assert not (labels == 3).any()


def test_motion_blur_keeps_the_object_and_its_place() -> None:
    shape, look = plain_sprite(255)
    sprite = make_sprite(np.random.default_rng(0), shape, look, 20)
    drawn = []
    for blur in (0.0, 1.0):
        frame, labels = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
        paint(frame, labels, sprite, motion_of(64, 64, 20, 0, speed=9), 1, 1, blur)
        drawn.append((frame, labels == 1))
    (sharp, mask), (smeared, blurred_mask) = drawn
    assert (mask & blurred_mask).sum() / (mask | blurred_mask).sum() > 0.9
    np.testing.assert_allclose(centre(mask), centre(blurred_mask), atol=0.5)
    assert smeared.mean() == pytest.approx(sharp.mean(), rel=0.02)
    assert ((smeared > 0) & (smeared < 255)).sum() > 3 * ((sharp > 0) & (sharp < 255)).sum()
    assert (blurred_mask == (smeared[..., 0] >= 128)).mean() > 0.999


def test_level_1_objects_stand_out_in_colour() -> None:
    for seed in range(4):
        clip = make_clip(seed, 1, size=SIZE)
        saturation = np.ptp(clip.frames[0].astype(int), axis=2)
        inside = ndimage.binary_erosion(clip.labels[0] > 0, iterations=2)
        outside = ~ndimage.binary_dilation(clip.labels[0] > 0, iterations=2)
        assert np.quantile(saturation[inside], 0.1) > np.quantile(saturation[outside], 0.9) + 30


def contrast(clip: Clip) -> float:
    """Mean contrast, 0..1, between colours 2 pixels inside and 2 pixels outside the outlines.

    In units of how much colours vary on either side.
    """
    frame, labels = clip.frames[0].astype(float), clip.labels[0]
    ratios = []
    for label in range(1, clip.objects + 1):
        mask = labels == label
        inner = ndimage.binary_erosion(mask) & ~ndimage.binary_erosion(mask, iterations=5)
        outer = ndimage.binary_dilation(mask, iterations=5) & ~ndimage.binary_dilation(mask)
        apart = np.abs(frame[inner].mean(axis=0) - frame[outer].mean(axis=0)).sum()
        spread = frame[inner].std(axis=0).sum() + frame[outer].std(axis=0).sum()
        ratios.append(apart / (apart + spread))
    return float(np.mean(ratios))


@pytest.mark.slow
def test_levels_get_harder() -> None:
    seeds = range(20)
    clips = {
        level: [make_clip(seed, 3, level=level, size=SIZE, absences=0.0) for seed in seeds]
        for level in LEVELS
    }
    contrasts = [np.mean([contrast(clip) for clip in clips[level]]) for level in LEVELS]
    assert contrasts[0] > contrasts[1] + 0.1
    assert contrasts[1] > contrasts[2]
    changes = [
        np.mean(
            [
                (clip.labels[0] != clip.labels[1]).sum() / (clip.labels[0] > 0).sum()
                for clip in clips[level]
            ]
        )
        for level in LEVELS
    ]
    assert changes[0] < changes[1] < changes[2]
    smallest = [
        np.mean([areas(clip.labels[0], clip.objects).min() for clip in clips[level]])
        for level in LEVELS
    ]
    assert smallest[2] < 0.7 * smallest[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 4}, "unknown level 4"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"frames": 0}, "at least 1 frame, not 0"),
        ({"size": 8}, "at least 64 pixels, not 8"),
        ({"objects": 0}, r"1\.\.16, not 0"),
        ({"objects": 17}, r"1\.\.16, not 17"),
        ({"absences": 1.5}, r"0\.\.1, not 1\.5"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: dict[str, float], message: str) -> None:
    given: dict[str, float] = {"seed": 0, "frames": 2, **arguments}
    with pytest.raises(InputError, match=message):
        make_clip(**given)  # type: ignore[arg-type]


def test_textures_repeat_without_a_seam() -> None:
    for kind in ("cloud", "stripe", "coat", "cell", "dot", "brick"):
        for tile in texture_bank()[kind]:
            values = tile.astype(int)
            steps = np.abs(np.diff(values, axis=0)).mean(axis=1)
            assert np.abs(values[0] - values[-1]).mean() <= steps.max() + 1


def test_davis_folders_hold_the_clips(tmp_path: Path) -> None:
    write_davis(tmp_path, 2, 3, 40, level=2, size=64)
    names = (tmp_path / "ImageSets/2017/val.txt").read_text().split()
    assert len(names) == len(set(names)) == 2
    for index, name in enumerate(names):
        clip = make_clip(40 + index, 3, level=2, size=64)
        images = sorted((tmp_path / "JPEGImages/480p" / name).iterdir())
        annotations = sorted((tmp_path / "Annotations/480p" / name).iterdir())
        assert [path.name for path in images] == [f"{t:05d}.jpg" for t in range(3)]
        assert [path.name for path in annotations] == [f"{t:05d}.png" for t in range(3)]
        for t in range(3):
            with Image.open(images[t]) as image:
                assert np.abs(np.array(image).astype(int) - clip.frames[t]).mean() < 8
            np.testing.assert_array_equal(read_labels(annotations[t]), clip.labels[t])
        with Image.open(annotations[0]) as image:
            assert image.mode == "P"
            assert image.getpalette() == davis_palette().ravel().tolist()


@pytest.mark.slow
def test_another_process_makes_the_same_clip(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastsam2.nano.synthetic", str(tmp_path / "out")]
    options = ["--clips", "1", "--frames", "2", "--seed", "7", "--level", "3", "--size", "64"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    clip = make_clip(7, 2, level=3, size=64)
    for t, path in enumerate(sorted((tmp_path / "out").glob("Annotations/480p/*/*.png"))):
        np.testing.assert_array_equal(read_labels(path), clip.labels[t])


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"--level": "9"}, 1, "unknown level 9"),
        ({"--clips": "0"}, 1, "number of clips must be at least 1, not 0"),
        ({"--frames": "0"}, 1, "at least 1 frame, not 0"),
        ({"--seed": "x"}, 2, "--seed: invalid int value: 'x'"),
    ],
)
def test_command_line_errors_are_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    status: int,
    message: str,
) -> None:
    options = {"--clips": "1", "--frames": "1", "--seed": "0", "--size": "64", **changed}
    arguments = [str(tmp_path / "out"), *(word for pair in options.items() for word in pair)]
    try:
        found = main(arguments)
    except SystemExit as stop:
        found = int(stop.code or 0)
    written = capsys.readouterr().err
    assert found == status
    assert written.startswith("error: ")
    assert message in written
    assert written.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file")
    assert main([out, "--clips", "1", "--frames", "1", "--seed", "0", "--size", "64"]) == 1
    assert out in capsys.readouterr().err


def test_help_names_the_levels(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "1 clean, 2 mixed, 3 hard" in capsys.readouterr().out
