from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from fastsam2.data.open_frames import open_frames
from fastsam2.data.video import VideoSource
from fastsam2.errors import VideoError
from tests.data.videos import (
    cut_at_frame,
    damage_frame,
    decode_in_order,
    moving_frames,
    write_audio,
    write_video,
)

FRAMES = moving_frames(24)
FRAME_BYTES = FRAMES[0].nbytes
GOP = {"g": "8"}
# name -> (codec, options, pixel format)
FORMATS = {
    "a.mp4": ("libx264", {"g": "8", "bf": "2"}, "yuv420p"),
    "open-gop.mp4": ("libx264", {"g": "8", "bf": "2", "x264-params": "open-gop=1"}, "yuv420p"),
    "one-gop.mkv": ("libx264", {"bf": "2"}, "yuv420p"),
    "a.mov": ("libx264", GOP, "yuv420p"),
    "a.webm": ("libvpx-vp9", GOP, "yuv420p"),
    "a.avi": ("mpeg4", {"g": "8", "bf": "2"}, "yuv420p"),
    "motion.avi": ("mjpeg", {}, "yuvj420p"),
    "a.gif": ("gif", {}, "rgb8"),
    "a.ts": ("libx264", {"g": "8", "bf": "2"}, "yuv420p"),
    "timeless.h264": ("libx264", {"g": "8", "bf": "2"}, "yuv420p"),
}
CAN_WRITE_METADATA = pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"),
    reason="this PyAV is too old to write rotation or cover pictures",
)
FASTSTART = {"movflags": "faststart"}


@pytest.mark.parametrize("name", FORMATS)
def test_every_order_of_access_gives_the_frames_of_plain_decoding(
    tmp_path: Path, name: str
) -> None:
    codec, options, pix_fmt = FORMATS[name]
    path = write_video(tmp_path / name, FRAMES, codec, options=options, pix_fmt=pix_fmt)
    expected = decode_in_order(path)
    orders = [
        range(24),
        range(23, -1, -1),
        random.Random(0).sample(range(24), 24),
        [5, 5, 6, 3, 20, 19, 18, 2],
    ]
    with open_frames(path, cache_bytes=5 * FRAME_BYTES) as source:
        assert (len(source), source.height, source.width) == (24, 48, 64)
        for order in orders:
            for frame_idx in order:
                np.testing.assert_array_equal(source[frame_idx], expected[frame_idx])


def test_bytes_of_a_file_are_as_good_as_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES, options=GOP)
    with open_frames(path) as source, open_frames(path.read_bytes()) as from_bytes:
        assert from_bytes.fps == source.fps == 10
        np.testing.assert_array_equal(from_bytes[13], source[13])


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_a_video_keeps_its_frames_after_it_was_opened(tmp_path: Path, change: str) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES, options=GOP)
    expected = decode_in_order(path)
    with open_frames(path, cache_bytes=1) as source:
        if change == "delete":
            path.unlink()
        else:
            write_video(tmp_path / "b.mp4", FRAMES[::-1], options=GOP).replace(path)
        for frame_idx in (13, 2, 23):
            np.testing.assert_array_equal(source[frame_idx], expected[frame_idx])


def test_a_video_that_is_overwritten_is_not_read_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES, options=GOP)
    other = write_video(tmp_path / "b.mp4", FRAMES[::-1], options=GOP)
    with open_frames(path, cache_bytes=1) as source:
        path.write_bytes(other.read_bytes())
        with pytest.raises(VideoError, match=r"a\.mp4 has changed since the video was") as caught:
            source[13]
        assert caught.value.frame_idx == 13


@CAN_WRITE_METADATA
@pytest.mark.parametrize(("rotation", "turns"), [(-90, -1), (90, 1), (180, 2)])
def test_rotation_is_applied_as_players_do(tmp_path: Path, rotation: int, turns: int) -> None:
    plain = decode_in_order(write_video(tmp_path / "plain.mp4", FRAMES[:3]))
    path = write_video(tmp_path / "turned.mp4", FRAMES[:3], rotation=rotation)
    with open_frames(path) as source:
        # FFmpeg's angle is counterclockwise, as in rot90.
        np.testing.assert_array_equal(source[1], np.rot90(plain[1], turns))
        assert (source.height, source.width) == source[0].shape[:2]


class _Counting(VideoSource):
    """Records where decoding begins."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.starts: list[int | None] = []
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def _packets(self, key_time: int | None):  # type: ignore[no-untyped-def]
        self.starts.append(key_time)
        yield from super()._packets(key_time)


def test_reading_on_never_seeks_and_going_back_decodes_each_group_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES, options={"g": "8", "sc_threshold": "0"})
    source = _Counting(path, cache_bytes=8 * FRAME_BYTES)
    for frame_idx in range(24):
        source[frame_idx]
    assert len(source.starts) == 1
    for frame_idx in range(23, -1, -1):
        source[frame_idx]
    assert len(source.starts) == 1 + 2  # the last 8 frames were cached


def test_frames_cannot_be_written_to(tmp_path: Path) -> None:
    source = open_frames(write_video(tmp_path / "a.mp4", FRAMES[:3]))
    with pytest.raises(ValueError, match="read-only"):
        source[0][0, 0, 0] = 1


def test_indices_follow_the_rules_of_sequences(tmp_path: Path) -> None:
    source = open_frames(write_video(tmp_path / "a.mp4", FRAMES[:3]))
    np.testing.assert_array_equal(source[-1], source[2])
    assert len(list(source)) == 3
    for frame_idx in (3, -4):
        with pytest.raises(IndexError, match=str(frame_idx)):
            source[frame_idx]
    source.close()
    source.close()
    with pytest.raises(VideoError, match="closed"):
        source[0]


def _readable(source: VideoSource, count: int) -> dict[int, str | None]:
    outcome: dict[int, str | None] = {}
    for frame_idx in range(count):
        try:
            source[frame_idx]
            outcome[frame_idx] = None
        except VideoError as error:
            outcome[frame_idx] = str(error) if error.frame_idx == frame_idx else "of another frame"
    return outcome


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "8", "bf": "0", "sc_threshold": "0"}),
        ("key.mp4", "libx264", {"g": "4", "bf": "2", "sc_threshold": "0"}),
        ("a.webm", "libvpx-vp9", GOP),
        ("a.avi", "mjpeg", {}),
    ],
)
def test_a_damaged_frame_fails_and_those_before_it_do_not(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, FRAMES, codec, options=options, pix_fmt=pix_fmt)
    expected = decode_in_order(path)
    damage_frame(path, 12)
    with open_frames(path) as source:
        assert len(source) == 24
        outcome = _readable(source, 24)
        assert [k for k in range(13) if outcome[k]] == [12]
        assert "frame 12" in str(outcome[12])
        assert "damaged" in str(outcome[12])
        # The next key frame is intact.
        assert all(outcome[k] is None for k in range(16, 24))
        for frame_idx in [k for k in (11, 3, 17, 23, 0) if outcome[k] is None]:
            np.testing.assert_array_equal(source[frame_idx], expected[frame_idx])


def test_frames_that_depend_on_a_damaged_one_are_unreadable(tmp_path: Path) -> None:
    options = {"g": "8", "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "a.mp4", FRAMES, options=options)
    damage_frame(path, 12)
    for order in (range(12, 16), range(15, 11, -1)):
        with open_frames(path) as source:
            for frame_idx in order:
                with pytest.raises(VideoError, match=f"frame {frame_idx} .*damaged"):
                    source[frame_idx]


@pytest.mark.parametrize(
    ("name", "codec", "container_options"),
    [("a.mp4", "libx264", FASTSTART), ("a.webm", "libvpx-vp9", {}), ("a.avi", "mpeg4", {})],
)
def test_frames_that_the_header_promises_are_missed(
    tmp_path: Path, name: str, codec: str, container_options: dict[str, str]
) -> None:
    path = write_video(
        tmp_path / name,
        FRAMES,
        codec,
        options={"g": "8", "bf": "0"},
        container_options=container_options,
    )
    cut_at_frame(path, 13)
    with open_frames(path) as source:
        assert len(source) == 24
        outcome = _readable(source, 24)
    assert [k for k in range(24) if outcome[k] is None] == list(range(13))
    assert "truncated after" in str(outcome[20])


def _late(path: Path, codec: str = "libx264") -> Path:
    """Video whose first frame is shown after 5 seconds."""
    return write_video(path, FRAMES, codec, options={"g": "8", "bf": "0"}, start=50)


def _with_sound_first(path: Path) -> Path:
    return write_video(path, FRAMES, start=30, sound=True)


def _edited(path: Path, begin: int, length: int) -> Path:
    """MP4 whose edit list keeps `length` frames from `begin` on."""
    write_video(path, FRAMES, options={"g": "8", "bf": "0"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        frame = int(1 / (10 * container.streams.video[0].time_base))
    place = content.find(b"elst") + 12  # after version, flags and count
    content[place : place + 8] = struct.pack(">II", length * 100, begin * frame)
    path.write_bytes(content)
    return path


def _last_fragment(path: Path) -> Path:
    """Fragmented MP4 of which only the header and the last fragment are left."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    write_video(path, FRAMES, options={"g": "8", "bf": "0"}, container_options=options)
    content = path.read_bytes()
    first, *_, last = [match.start() - 4 for match in re.finditer(b"moof", content)]
    path.write_bytes(content[:first] + content[last:])
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("late.mkv", _late),
        ("late.webm", lambda path: _late(path, "libvpx-vp9")),
        ("late.avi", _late),
        ("late.mp4", _late),
        ("late.ts", _late),
        ("sound.mkv", _with_sound_first),
        ("end.mp4", lambda path: _edited(path, 0, 12)),
        ("begin.mp4", lambda path: _edited(path, 8, 10)),
        ("fragment.mp4", _last_fragment),
        ("reordered.avi", lambda path: write_video(path, FRAMES, options={"g": "8", "bf": "2"})),
    ],
)
def test_there_are_as_many_frames_as_ffmpeg_decodes(
    tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path / name)
    expected = decode_in_order(path)
    with open_frames(path) as source:
        assert len(source) == len(expected) > 0
        for frame_idx in (len(source) - 1, *range(len(source))):
            np.testing.assert_array_equal(source[frame_idx], expected[frame_idx])


def test_a_truncated_mp4_without_its_index_says_so(tmp_path: Path) -> None:
    path = cut_at_frame(write_video(tmp_path / "a.mp4", FRAMES), 13)
    with pytest.raises(VideoError, match=r"a\.mp4 as a video: it is truncated"):
        open_frames(path)


def test_a_damaged_first_frame_is_frame_zero(tmp_path: Path) -> None:
    path = damage_frame(write_video(tmp_path / "a.mp4", FRAMES, options=GOP), 0)
    with pytest.raises(VideoError, match="frame 0") as caught:
        open_frames(path)
    assert caught.value.frame_idx == 0


def test_a_clip_that_begins_between_key_frames_begins_at_the_first_one(tmp_path: Path) -> None:
    options = {"g": "8", "bf": "2", "sc_threshold": "0"}
    path = write_video(tmp_path / "a.ts", FRAMES, options=options)
    expected = decode_in_order(path)
    # Transport streams may be cut at any multiple of 188 bytes; the first three packets are tables.
    content = path.read_bytes()
    with av.open(str(path)) as container:
        second = [packet for packet in container.demux(video=0) if packet.size][1]
    clip = tmp_path / "clip.ts"
    clip.write_bytes(content[: 3 * 188] + content[second.pos // 188 * 188 :])
    with open_frames(clip) as source:
        assert len(source) == 16
        np.testing.assert_array_equal(source[0], expected[8])
        np.testing.assert_array_equal(source[15], expected[23])


@pytest.mark.parametrize("cover", [False, pytest.param(True, marks=CAN_WRITE_METADATA)])
def test_audio_files_are_refused(tmp_path: Path, cover: bool) -> None:
    with pytest.raises(VideoError, match=r"sound\.m4a holds audio but no video"):
        open_frames(write_audio(tmp_path / "sound.m4a", cover))


@pytest.mark.parametrize("name", ["a.mp4", "a.txt"])
def test_text_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello, hello\n" * 100)
    with pytest.raises(VideoError, match=name):
        open_frames(tmp_path / name)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no such file or folder: .*nowhere\.mp4"):
        open_frames(tmp_path / "nowhere.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty \(0 bytes\): .*empty\.mp4"):
        open_frames(str(tmp_path / "empty.mp4"))
    with pytest.raises(VideoError, match="0 bytes"):
        open_frames(b"")
