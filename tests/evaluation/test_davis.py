from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsam2.data.writers import write_labels
from fastsam2.errors import VideoError
from fastsam2.evaluation.davis import open_davis
from tests.evaluation.folders import HEIGHT, WIDTH, squares, write_davis


@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution", ""])
def test_layouts(tmp_path: Path, resolution: str) -> None:
    labels = {"bear": squares(4), "ant": squares(3, obj_id=2)}
    davis = open_davis(write_davis(tmp_path, labels, resolution))
    assert davis.names == ("ant", "bear")
    for sequence in davis:
        assert len(sequence) == len(labels[sequence.name])
        assert sequence.size == (HEIGHT, WIDTH)
        assert sequence.folder == tmp_path / "JPEGImages" / resolution / sequence.name
        for frame_idx in range(len(sequence)):
            np.testing.assert_array_equal(
                sequence.labels(frame_idx), labels[sequence.name][frame_idx]
            )


def test_480p_is_taken_where_there_are_several(tmp_path: Path) -> None:
    for resolution, length in (("1080p", 5), ("480p", 3)):
        write_davis(tmp_path, {"bear": squares(length)}, resolution)
    assert len(open_davis(tmp_path).sequence("bear")) == 3
    assert len(open_davis(tmp_path, "1080p").sequence("bear")) == 5


@pytest.mark.parametrize(
    ("years", "names"),
    [
        ({"2016": ["a"], "2017": ["c", "b", "c"], "2019": ["a"]}, ("c", "b")),
        ({"2016": ["a"], "2019": ["b"]}, ("b",)),
        ({"480p": ["a"]}, ("a", "b", "c")),
    ],
)
def test_lists(tmp_path: Path, years: dict[str, list[str]], names: tuple[str, ...]) -> None:
    labels = {name: squares(3) for name in "abc"}
    assert open_davis(write_davis(tmp_path, labels, listed=years)).names == names


def test_objects_and_where_they_appear(tmp_path: Path) -> None:
    labels = squares(6, first=2, obj_id=1) + squares(6, obj_id=3) + squares(6, first=2, obj_id=2)
    labels[:, 0, 0] = 255  # void
    sequence = open_davis(write_davis(tmp_path, {"bear": labels})).sequence("bear")
    assert list(sequence.first_frames().items()) == [(3, 0), (1, 2), (2, 2)]
    assert sequence.labels(0)[0, 0] == 0


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    davis = open_davis(write_davis(tmp_path, {"bear": squares(3), "cow": squares(3)}))
    (tmp_path / "Annotations/480p/bear/00001.png").write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "JPEGImages/480p/cow")
    sequence = davis.sequence("bear")
    assert sequence.labels(0).max() == 1
    with pytest.raises(VideoError, match=r"cannot read the annotation .*00001\.png") as caught:
        sequence.labels(1)
    assert caught.value.frame_idx == 1


def _remove(path: str) -> object:
    return lambda root: shutil.rmtree(root / path)


def _unlink(path: str) -> object:
    return lambda root: (root / path).unlink()


def _list_nothing(root: Path) -> None:
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("\n")


def _list_unknown(root: Path) -> None:
    _list_nothing(root)
    (root / "ImageSets/2017/val.txt").write_text("wolf\n")


def _two_resolutions(root: Path) -> None:
    (root / "JPEGImages/480p").rename(root / "JPEGImages/720p")
    shutil.copytree(root / "JPEGImages/720p", root / "JPEGImages/1080p")


def _other_size(root: Path) -> None:
    write_labels(root / "Annotations/480p/bear/00001.png", np.ones((9, 10), np.uint8))


def _colours(root: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "Annotations/480p/bear/00001.png")


def _void_only(root: Path) -> None:
    for path in (root / "Annotations/480p/bear").iterdir():
        write_labels(path, np.full((HEIGHT, WIDTH), 255, np.uint8))


def _damaged_frame(root: Path) -> None:
    (root / "JPEGImages/480p/bear/00000.jpg").write_bytes(b"damaged")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove(""), "no such folder: "),
        (_remove("JPEGImages"), "not in the layout of DAVIS: it has no folder JPEGImages"),
        (_remove("Annotations"), "not in the layout of DAVIS: it has no folder Annotations"),
        (_remove("Annotations/480p"), "no such folder: .*Annotations.480p"),
        (_remove("JPEGImages/480p/bear"), "no sequences in .*480p"),
        (_remove("Annotations/480p/bear"), "no annotations of the sequence bear"),
        (_unlink("JPEGImages/480p/bear/00002.jpg"), "bear has 2 frames, but at least 3"),
        (
            _unlink("Annotations/480p/bear/00002.png"),
            r"1 of the 3 frames of bear have no .*00002\.png",
        ),
        (_list_nothing, r"no sequences in the list .*val\.txt"),
        (_list_unknown, "no frames of the sequence wolf: there is no folder"),
        (_two_resolutions, "no folder 480p, but several others: 1080p, 720p"),
        (_other_size, r"00001\.png is 10x9 pixels, but the frames are 32x24"),
        (_colours, r"00001\.png has pixel mode RGB: expected a palette image"),
        (_void_only, "no objects in the annotations of bear"),
        (_damaged_frame, r"cannot read the image .*00000\.jpg"),
    ],
)
def test_missing_or_invalid_files(tmp_path: Path, spoil: object, message: str) -> None:
    root = write_davis(tmp_path / "davis", {"bear": squares(3)})
    assert callable(spoil)
    spoil(root)
    with pytest.raises(VideoError, match=message) as caught:
        [sequence.first_frames() for sequence in open_davis(root)]
    assert "\n" not in str(caught.value)
