from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsam2.cli.prompts import Canvas, collect_prompts
from fastsam2.errors import InputError

CANVAS = Canvas("clip.mp4", num_frames=12, height=48, width=64)


def test_points_and_boxes_gather_by_frame_and_object() -> None:
    prompts = collect_prompts(
        CANVAS,
        ["1,2", "3.5,4,0", "5,6,1@3", "7,8@3:2", "0,0:2"],
        ["10,11,12,13", "0,0,64,48@3:2"],
        [],
        default_frame=0,
    )
    found = [(p.frame, p.obj_id, p.points, p.labels, p.box) for p in prompts]
    assert found == [
        (0, 1, [(1, 2), (3.5, 4)], [1, 0], (10, 11, 12, 13)),
        (0, 2, [(0, 0)], [1], None),
        (3, 1, [(5, 6)], [1], None),
        (3, 2, [(7, 8)], [1], (0, 0, 64, 48)),
    ]


def test_the_default_frame_is_that_of_the_range() -> None:
    (prompt,) = collect_prompts(CANVAS, ["1,2"], [], [], default_frame=7)
    assert (prompt.frame, prompt.obj_id) == (7, 1)


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("point", "64,10", "outside clip.mp4, which is 64x48"),
        ("point", "10,48", "outside clip.mp4"),
        ("point", "-1,10", "outside clip.mp4"),
        ("point", "nan,10", "nan,10 holds a value that is not a finite number"),
        ("point", "inf,10", "not a finite number"),
        ("point", "10", "expected X,Y"),
        ("point", "1,2,3,4", "expected X,Y"),
        ("point", "a,b", "cannot read --point 'a,b'"),
        ("point", "", "cannot read --point ''"),
        ("point", "1,2,2", "label must be 1 .* not 2"),
        ("point", "1,2@12", "no frame 12; clip.mp4 has frames 0 to 11"),
        ("point", "1,2@-1", "cannot read --point"),
        ("point", "1,2@x", "cannot read --point"),
        ("point", "1,2:0", "object id must be 1 to 255"),
        ("point", "1,2:256", "object id must be 1 to 255"),
        ("point", "1,2:2@3", "cannot read --point"),
        ("box", "1,2,3", "expected X0,Y0,X1,Y1"),
        ("box", "5,5,5,9", "empty: X0 < X1"),
        ("box", "9,5,5,9", "empty"),
        ("box", "0,0,65,48", "exceeds clip.mp4, which is 64x48"),
        ("box", "0,0,nan,48", "not a finite number"),
    ],
)
def test_bad_prompts_are_named(option: str, text: str, message: str) -> None:
    points = [text] if option == "point" else []
    boxes = [text] if option == "box" else []
    with pytest.raises(InputError, match=message):
        collect_prompts(CANVAS, points, boxes, [], default_frame=0)


def test_no_prompts_and_two_boxes() -> None:
    with pytest.raises(InputError, match="no prompts"):
        collect_prompts(CANVAS, [], [], [], default_frame=0)
    with pytest.raises(InputError, match="object 1 has a box on frame 0 already"):
        collect_prompts(CANVAS, [], ["0,0,9,9", "1,1,9,9"], [], default_frame=0)


def _labels() -> np.ndarray:
    labels = np.zeros((48, 64), np.uint8)
    labels[5:10, 5:10] = 2
    labels[20:30, 20:30] = 7
    return labels


def _save(path: Path, pixels: np.ndarray, mode: str) -> Path:
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    image.save(path)
    return path


def test_a_palette_mask_holds_several_objects_unless_one_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path / "m@1.png", _labels(), "P")
    prompts = collect_prompts(CANVAS, [], [], [f"{path}@4"], default_frame=0)
    assert [(p.frame, p.obj_id, int(p.mask.sum())) for p in prompts] == [(4, 2, 25), (4, 7, 100)]
    (prompt,) = collect_prompts(CANVAS, [], [], [f"{path}:9"], default_frame=3)
    assert (prompt.frame, prompt.obj_id, int(prompt.mask.sum())) == (3, 9, 125)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_a_grey_or_binary_mask_is_one_object(tmp_path: Path, mode: str) -> None:
    path = _save(tmp_path / "m.png", (_labels() > 0).astype(np.uint8) * 255, mode)
    (prompt,) = collect_prompts(CANVAS, [], [], [str(path)], default_frame=0)
    assert (prompt.obj_id, int(prompt.mask.sum())) == (1, 125)


@pytest.mark.parametrize(
    ("mode", "pixels", "message"),
    [
        ("L", _labels(), "2 levels besides 0"),
        ("RGB", _labels(), "mode RGB"),
        ("I;16", _labels().astype(np.uint16), "mode I;16"),
        ("L", np.zeros((48, 64), np.uint8), "empty"),
        ("L", np.ones((48, 60), np.uint8), "60x48 pixels, but clip.mp4 is 64x48"),
    ],
)
def test_masks_that_cannot_be_used_are_named(
    tmp_path: Path, mode: str, pixels: np.ndarray, message: str
) -> None:
    path = _save(tmp_path / "m.png", pixels, mode)
    with pytest.raises(InputError, match=message):
        collect_prompts(CANVAS, [], [], [str(path)], default_frame=0)


def test_mask_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such mask: .*none\.png"):
        collect_prompts(CANVAS, [], [], [str(tmp_path / "none.png@2")], default_frame=0)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match=r"cannot read the mask .*text\.png"):
        collect_prompts(CANVAS, [], [], [str(tmp_path / "text.png")], default_frame=0)


def test_a_mask_excludes_other_prompts_there(tmp_path: Path) -> None:
    path = _save(tmp_path / "m.png", _labels(), "P")
    with pytest.raises(InputError, match="object 2 has another prompt on frame 0"):
        collect_prompts(CANVAS, ["1,1:2"], [], [str(path)], default_frame=0)
    assert len(collect_prompts(CANVAS, ["1,1@1:2"], [], [str(path)], default_frame=0)) == 3
