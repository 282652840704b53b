from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fastsam2.data.open_frames import open_frames
from fastsam2.data.palette import davis_palette
from fastsam2.data.rle import decode_rle, encode_mask
from fastsam2.data.writers import (
    MaskPngWriter,
    OverlayVideoWriter,
    TrackJsonWriter,
    label_image,
    read_labels,
)
from fastsam2.errors import InputError
from tests.data.videos import decode_in_order, moving_frames

MASKS = {1: np.eye(6, 8, dtype=bool), 3: np.ones((6, 8), bool)}


@pytest.mark.parametrize(("height", "width"), [(48, 64), (49, 65)])
def test_a_video_is_h264_that_players_show(tmp_path: Path, height: int, width: int) -> None:
    frames = moving_frames(12, height, width)
    path = tmp_path / "overlay.mp4"
    with OverlayVideoWriter(path, 30000 / 1001, (height, width)) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (height + height % 2, width + width % 2)
        assert stream.average_rate == pytest.approx(30000 / 1001)
    decoded = decode_in_order(path)
    assert len(decoded) == 12
    assert list(tmp_path.iterdir()) == [path]


def test_frames_of_a_video_are_shown_at_their_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.45, 0.46, None, 2.0]  # the fourth would share a tenth with the third
    with OverlayVideoWriter(tmp_path / "a.mp4", 10, (48, 64)) as writer:
        for frame, time in zip(moving_frames(6), times, strict=True):
            writer.write(frame, time)
    with av.open(str(tmp_path / "a.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert shown == pytest.approx([0.0, 0.1, 0.4, 0.5, 0.6, 2.0])
    with open_frames(tmp_path / "a.mp4") as source:
        assert len(source) == 6


def test_a_video_keeps_its_colours(tmp_path: Path) -> None:
    color = np.array([220, 40, 60], np.uint8)
    path = tmp_path / "a.mp4"
    with OverlayVideoWriter(path, 10, (64, 64)) as writer:
        writer.write(np.tile(color, (64, 64, 1)))
    with open_frames(path) as source:
        np.testing.assert_allclose(source[0][32, 32], color, atol=4)


def test_a_video_is_valid_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with OverlayVideoWriter(tmp_path / "a.mp4", 10, (48, 64)) as writer:
            for frame in moving_frames(3):
                writer.write(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(decode_in_order(tmp_path / "a.mp4")) == 3


def test_no_frames_no_video(tmp_path: Path) -> None:
    with OverlayVideoWriter(tmp_path / "a.mp4", 10, (48, 64)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_video_refuses_other_sizes_and_rates(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"\[40, 64\] in a video of \[48, 64\]"),
        OverlayVideoWriter(tmp_path / "a.mp4", 10, (48, 64)) as writer,
    ):
        writer.write(moving_frames(1, 40, 64)[0])
    with pytest.raises(InputError, match="0 frames per second"):
        OverlayVideoWriter(tmp_path / "a.mp4", 0, (48, 64))


def test_masks_become_palette_images(tmp_path: Path) -> None:
    labels = MaskPngWriter(tmp_path / "masks").write(7, MASKS)
    path = tmp_path / "masks" / "00007.png"
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.reshape(image.getpalette(), (-1, 3)), davis_palette())
        np.testing.assert_array_equal(np.array(image), labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    assert [p.name for p in path.parent.iterdir()] == ["00007.png"]


def test_overlaps_go_to_the_higher_logit_or_the_later_mask() -> None:
    np.testing.assert_array_equal(label_image(MASKS), np.full((6, 8), 3))
    first = np.array([[-1.0, 2.0, 2.0, -3.0]])
    second = np.array([[-2.0, 1.0, 3.0, 0.5]])
    np.testing.assert_array_equal(label_image({4: first, 9: second}), [[0, 4, 9, 9]])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({0: MASKS[1]}, "object id 0"),
        ({256: MASKS[1]}, "object id 256"),
        ({1: MASKS[1], 2: MASKS[1][:3]}, "one size"),
        ({1: MASKS[1], 2: MASKS[1].astype(float)}, "one size and kind"),
        ({}, "one size"),
        ({1: MASKS[1][None]}, r"not \[1, 6, 8\]"),
    ],
)
def test_label_images_refuse_what_they_cannot_hold(masks: dict[int, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_image(masks)


def test_the_json_document(tmp_path: Path) -> None:
    path = tmp_path / "tracks.json"
    meta = {"video": {"name": "a.mp4", "frames": 2}, "model": "tiny"}
    with TrackJsonWriter(path, meta) as writer:
        writer.write(1, MASKS, {1: 0.25})
        writer.write(0, {1: np.zeros((6, 8), bool)}, time=0.5)
        # Killed here, the program leaves the frames so far.
        unfinished = json.loads(path.read_text())
    document = json.loads(path.read_text())
    assert list(document) == ["video", "model", "frames", "complete"]
    assert document["video"] == meta["video"]
    assert document["complete"] is True
    assert unfinished == {**document, "complete": False}
    assert [frame["frame"] for frame in document["frames"]] == [1, 0]
    assert [frame.get("time") for frame in document["frames"]] == [None, 0.5]
    diagonal, full = document["frames"][0]["objects"]
    np.testing.assert_array_equal(decode_rle(diagonal["rle"]), MASKS[1])
    assert (diagonal["id"], diagonal["box"], diagonal["area"]) == (1, [0, 0, 6, 6], 6)
    assert (diagonal["score"], full["score"]) == (0.25, None)
    (absent,) = document["frames"][1]["objects"]
    assert (absent["box"], absent["area"]) == (None, 0)
    assert list(tmp_path.iterdir()) == [path]


def test_encoded_masks_are_written_as_they_are(tmp_path: Path) -> None:
    with TrackJsonWriter(tmp_path / "tracks.json", {}) as writer:
        writer.write(0, MASKS)
        writer.write(0, {obj_id: encode_mask(mask) for obj_id, mask in MASKS.items()})
    first, second = json.loads((tmp_path / "tracks.json").read_text())["frames"]
    assert first == second


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_json_document_is_valid_after_an_error(tmp_path: Path, count: int) -> None:
    def interrupted() -> None:
        with TrackJsonWriter(tmp_path / "a.json", {}) as writer:
            for frame_idx in range(count):
                writer.write(frame_idx, MASKS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    document = json.loads((tmp_path / "a.json").read_text())
    assert len(document["frames"]) == count
    assert document["complete"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("room", range(900, 1500, 50))
def test_a_full_disk_leaves_the_frames_before(tmp_path: Path, room: int) -> None:
    import resource

    written: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk() -> None:
        with TrackJsonWriter(tmp_path / "a.json", {}) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            for frame_idx in range(100):
                writer.write(frame_idx, MASKS)
                written.append(frame_idx)

    try:
        with pytest.raises(OSError, match="too large"):
            fill_the_disk()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    document = json.loads((tmp_path / "a.json").read_text())
    assert [frame["frame"] for frame in document["frames"]] == written != []
    assert document["complete"] is False


def test_numbers_that_json_has_no_word_for_are_refused(tmp_path: Path) -> None:
    with TrackJsonWriter(tmp_path / "a.json", {}) as writer:
        with pytest.raises(ValueError, match="JSON"):
            writer.write(0, MASKS, {1: float("nan")})
        writer.write(1, MASKS)
    assert [f["frame"] for f in json.loads((tmp_path / "a.json").read_text())["frames"]] == [1]
