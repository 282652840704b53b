from __future__ import annotations

import gc
import http.server
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastsam2.data import live_inputs
from fastsam2.data.live import LiveSource, is_live
from fastsam2.errors import InputError, VideoError
from tests.data.test_video import CAN_WRITE_METADATA
from tests.data.videos import (
    Frames,
    cut_at_frame,
    damage_frame,
    decode_in_order,
    moving_frames,
    write_audio,
    write_video,
)
from tests.messages import one_line

FRAMES = moving_frames(24)
TIMEOUT = 20  # seconds; reached by failing tests only


def _numbered(number: int, height: int = 4) -> Frames:
    return np.full((height, 6, 3), number, np.uint8)


def _numbers(source: Iterator[tuple[float, Frames]]) -> list[int]:
    return [int(image[0, 0, 0]) for _, image in source]


def _clip(path: Path, **options: str) -> Path:
    return write_video(path, FRAMES, options={"g": "8", "bf": "0", "sc_threshold": "0", **options})


def _check(source: LiveSource, expected: list[Frames]) -> None:
    assert (source.height, source.width, source.fps) == (48, 64, 10.0)
    frames = list(source)
    assert len(frames) == len(expected)
    for index, (time, image) in enumerate(frames):
        assert time == pytest.approx(index / 10)
        np.testing.assert_array_equal(image, expected[index])
    assert (source.dropped, source.damaged) == (0, 0)


@contextmanager
def _served(content: bytes, *, promised: int | None = None) -> Iterator[str]:
    """URL of a server that announces `promised` bytes and sends `content`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(promised or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/clip"
        finally:
            server.shutdown()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "b-frames.mp4", "raw.h264"])
def test_a_file_gives_the_frames_of_plain_decoding(tmp_path: Path, name: str) -> None:
    path = _clip(tmp_path / name, bf="2" if name.startswith("b") else "0")
    if name == "raw.h264":  # no timestamps: FFmpeg's default frame rate
        with LiveSource(path) as source:
            times = [frame.time for frame in source]
            assert times == pytest.approx([index / (source.fps or 0) for index in range(24)])
        return
    with LiveSource(path) as source:
        assert source.policy == "queue"
        _check(source, decode_in_order(path))


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "fragmented.mp4"])
def test_a_pipe(tmp_path: Path, name: str) -> None:
    movflags = {"movflags": "frag_keyframe+empty_moov"} if name.endswith("mp4") else {}
    path = write_video(tmp_path / name, FRAMES, container_options=movflags)
    expected = decode_in_order(path)
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(path.read_bytes())

    threading.Thread(target=write).start()
    with os.fdopen(reading, "rb") as file, LiveSource(file) as source:
        assert source.policy == "queue"
        _check(source, expected)


def test_frames_of_a_pipe_come_as_its_bytes_do(tmp_path: Path) -> None:
    """Not only when a whole buffer is full, possibly seconds later."""
    content = _clip(tmp_path / "a.mkv").read_bytes()
    assert len(content) < 32768
    reading, writing = os.pipe()
    os.write(writing, content)
    too_late = threading.Timer(TIMEOUT, os.close, [writing])
    too_late.start()
    with os.fdopen(reading, "rb") as file, LiveSource(file) as source:
        assert next(source).image.shape == (48, 64, 3)
        in_time = not too_late.finished.is_set()
        too_late.cancel()
        assert in_time
        os.close(writing)
        assert len(list(source)) == 23


@pytest.mark.slow
def test_stdin_of_another_program(tmp_path: Path) -> None:
    path = _clip(tmp_path / "a.ts")
    code = (
        "from fastsam2.data.live import LiveSource\n"
        "source = LiveSource('-')\n"
        "print(source.name, source.policy, len(list(source)))"
    )
    with path.open("rb") as file:
        ran = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True)
    assert ran.stdout.split() == [b"stdin", b"queue", b"24"], ran.stderr


@pytest.mark.slow
def test_a_program_ends_while_its_stdin_is_silent(tmp_path: Path) -> None:
    """A thread blocked in a read must not keep the program from exiting."""
    code = (
        "from fastsam2.data.live import LiveSource\n"
        "source = LiveSource('-')\n"
        "print([next(source).image.shape for _ in range(90)][-1], flush=True)\n"
        "import time; time.sleep(0.5)"  # by then the thread is blocked in a read
    )
    content = _clip(tmp_path / "a.ts").read_bytes()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as program:
        assert program.stdin
        assert program.stdout
        assert program.stderr
        program.stdin.write(content * 4)  # 96 frames, of which the last fit into the queue
        program.stdin.flush()
        assert program.stdout.readline().strip() == b"(48, 64, 3)"
        assert program.wait(TIMEOUT) == 0, program.stderr.read()


def test_bytes_in_memory_that_stand_for_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _clip(tmp_path / "a.ts")
    stdin = SimpleNamespace(buffer=io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(live_inputs, "sys", SimpleNamespace(stdin=stdin))
    with LiveSource("-") as source:
        _check(source, decode_in_order(path))


def test_a_url(tmp_path: Path) -> None:
    path = _clip(tmp_path / "a.ts")
    with _served(path.read_bytes()) as url, LiveSource(url, "queue") as source:
        _check(source, decode_in_order(path))
    with _served(path.read_bytes()) as url, LiveSource(url) as source:
        assert source.policy == "drop"


def test_a_lost_connection_is_raised_after_the_frames_before_it(tmp_path: Path) -> None:
    path = _clip(tmp_path / "a.ts")
    expected = decode_in_order(path)
    content = path.read_bytes()
    with _served(content[: len(content) // 2], promised=len(content)) as url:
        source = LiveSource(url, "queue")
        found: list[Frames] = []
        with pytest.raises(VideoError, match=r"broke off after \d+ frames: ") as caught:
            found.extend(image for _, image in source)
    assert url in one_line(caught)
    assert caught.value.frame_idx == len(found) > 5
    for image, frame in zip(found[:-1], expected, strict=False):
        np.testing.assert_array_equal(image, frame)
    assert next(source, None) is None


def test_a_silent_network_is_lost() -> None:
    with pytest.raises(VideoError, match="no data before the timeout"):
        LiveSource("udp://127.0.0.1:0", timeout=0.2)


def test_unreachable_sources() -> None:
    for url in ("http://127.0.0.1:9/clip.ts", "rtsp://127.0.0.1:9/live"):
        with pytest.raises(VideoError, match=f"cannot open {url}: .*refused"):
            LiveSource(url)


def test_cameras_by_number_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def refuse(file: str, **arguments: object) -> None:
        opened.append((file, arguments["format"]))
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(live_inputs.av, "open", refuse)
    names = [("linux", "0"), ("linux", "/dev/video2"), ("darwin", "1"), ("win32", "Webcam")]
    for platform, which in names:
        monkeypatch.setattr(live_inputs, "sys", SimpleNamespace(platform=platform))
        with pytest.raises(VideoError, match=f"cannot open camera:{which}: Device or .* busy"):
            LiveSource(f"camera:{which}")
    assert opened == [
        ("/dev/video0", "v4l2"),
        ("/dev/video2", "v4l2"),
        ("1", "avfoundation"),
        ("video=Webcam", "dshow"),
    ]
    with pytest.raises(InputError, match="the first one is camera:0"):
        LiveSource("camera:")


def test_names_that_stand_for_live_sources() -> None:
    for name in ("-", "camera:0", "rtsp://host/live", "udp://0.0.0.0:5000"):
        assert is_live(name)
    for name in ("clip.mp4", "a/b.mp4", "camera.mp4", "-.mp4"):
        assert not is_live(name)


@CAN_WRITE_METADATA
def test_rotation_is_applied(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mp4", FRAMES[:3], rotation=90)
    plain = decode_in_order(path)
    with LiveSource(path) as source:
        assert (source.height, source.width) == (64, 48)
        np.testing.assert_array_equal(next(source).image, np.rot90(plain[0]))


def test_a_damaged_frame_is_left_out_and_counted(tmp_path: Path) -> None:
    path = _clip(tmp_path / "a.mp4")
    expected = decode_in_order(path)
    damage_frame(path, 12)
    with LiveSource(path) as source:
        frames = list(source)
        assert (len(frames), source.damaged) == (23, 1)
    tenths = [round(10 * frame.time) for frame in frames]
    assert tenths == [index for index in range(24) if index != 12]
    for tenth, frame in zip(tenths, frames, strict=True):
        if not 12 < tenth < 16:  # up to the next key frame, which depends on no other
            np.testing.assert_array_equal(frame.image, expected[tenth])


def test_a_truncated_pipe_ends_without_an_error(tmp_path: Path) -> None:
    path = cut_at_frame(_clip(tmp_path / "a.mkv"), 13)
    assert len(list(LiveSource(io.BytesIO(path.read_bytes())))) == 13


def test_sources_without_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video, " * 100)
    sound = write_audio(tmp_path / "sound.m4a")
    for source, message in (
        (tmp_path / "none.mp4", "no such file"),
        (tmp_path, f"not a file: {tmp_path}"),
        (tmp_path / "text.mp4", r"cannot open .*text\.mp4: Invalid data"),
        (sound, r"sound\.m4a holds no video"),
        (io.BytesIO(b"text" * 100), "cannot open the pipe"),
        ([], "the iterator of frames has no frames"),
        ([np.zeros((4, 6), np.uint8)], r"frame 0 must be a uint8 array \[H, W, 3\]"),
        ([_numbered(0), _numbered(1, height=5)], "frame 1 of .* is 6x5 pixels"),
        (5, "an object of type int"),
    ):
        with pytest.raises(VideoError, match=message) as caught:
            list(LiveSource(source))
        one_line(caught)


def test_invalid_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown policy 'newest': choose one of drop, queue"):
        LiveSource(FRAMES, "newest")
    with pytest.raises(InputError, match="queue_size must be at least 1, but is 0"):
        LiveSource(FRAMES, queue_size=0)


class _Step:
    """Producer that runs one step at a time and signals its end."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps
        self.produced = 0
        self.closed = threading.Event()
        self._allowed = threading.Semaphore(0)
        self._waiting = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Frames]:
        try:
            for count in self.steps:
                assert self._allowed.acquire(timeout=TIMEOUT)
                for _ in range(count):
                    self.produced += 1
                    yield _numbered(self.produced)
                self._waiting.release()  # the step is complete
            assert self._allowed.acquire(timeout=TIMEOUT)
        finally:
            self.closed.set()

    def allow(self) -> None:
        self._allowed.release()

    def step(self) -> None:
        self.allow()
        assert self._waiting.acquire(timeout=TIMEOUT)


def test_drop_keeps_the_newest_frame() -> None:
    camera = _Step([3, 1, 3])
    camera.allow()
    source = LiveSource(iter(camera), "drop")
    assert camera._waiting.acquire(timeout=TIMEOUT)
    # No frame has been taken yet, so none counts as dropped.
    assert next(source).image[0, 0, 0] == 3
    assert source.dropped == 0
    camera.step()
    assert next(source).image[0, 0, 0] == 4
    camera.step()
    assert source.dropped == 2
    camera.allow()
    assert _numbers(source) == [7]
    assert source.dropped == 2


def test_drop_waits_for_a_slow_camera() -> None:
    camera = _Step([1, 1])
    camera.allow()
    source = LiveSource(iter(camera), "drop")
    next(source)
    found: list[int] = []
    taking = threading.Thread(target=lambda: found.extend(_numbers(source)))
    taking.start()
    camera.step()
    camera.allow()
    taking.join(TIMEOUT)
    assert found == [2]


def test_queue_keeps_every_frame_and_holds_the_reader_back() -> None:
    drawn = threading.Semaphore(0)
    ahead: list[int] = []
    taken = 0

    def frames() -> Iterator[Frames]:
        for number in range(20):
            ahead.append(number - taken)
            drawn.release()
            yield _numbered(number)

    source = LiveSource(frames(), "queue", queue_size=3)
    for number in range(20):
        # The consumer is slow: the reader has filled the queue.
        for _ in range(4 if number == 0 else min(1, 20 - number - 3)):
            assert drawn.acquire(timeout=TIMEOUT)
        assert next(source).image[0, 0, 0] == number
        taken += 1
    assert next(source, None) is None
    assert source.dropped == 0
    # Three in the queue, and one held by the reader.
    assert max(ahead) <= 4


@pytest.mark.parametrize("policy", ["queue", "drop"])
def test_errors_of_a_generator_come_after_its_frames(policy: str) -> None:
    def frames() -> Iterator[Frames]:
        yield _numbered(1)
        yield _numbered(2)
        raise ZeroDivisionError("the camera was unplugged")

    source = LiveSource(frames(), policy)
    found: list[int] = []
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        found.extend(int(image[0, 0, 0]) for _, image in source)
    assert found == [1, 2] if policy == "queue" else found[-1] == 2
    assert next(source, None) is None


def test_close_ends_the_thread_the_iterator_and_the_generator() -> None:
    camera = _Step([20, 1])
    camera.allow()
    source = LiveSource(iter(camera), queue_size=2)
    next(source)
    source.close()
    source.close()
    assert next(source, None) is None
    assert camera.closed.wait(TIMEOUT)
    assert camera.produced < 20


def test_close_wakes_a_waiting_consumer() -> None:
    camera = _Step([1, 1])
    camera.allow()
    source = LiveSource(iter(camera))
    next(source)
    found: list[object] = []
    taking = threading.Thread(target=lambda: found.append(next(source, None)))
    taking.start()
    source.close()
    taking.join(TIMEOUT)
    assert found == [None]
    camera.allow()
    camera.allow()
    assert camera.closed.wait(TIMEOUT)


def test_a_source_that_is_dropped_ends_its_thread() -> None:
    camera = _Step([20])
    camera.allow()
    source = LiveSource(iter(camera), queue_size=2)
    next(source)
    del source
    gc.collect()
    assert camera.closed.wait(TIMEOUT)


def test_drop_plays_a_recording_at_its_own_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses a clock that advances only while the reader waits."""
    from fastsam2.data import live

    now = 0.0
    shown: list[float] = []

    def pause(handover: object, seconds: float) -> None:
        nonlocal now
        now += max(seconds, 0.0)
        shown.append(now)

    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    monkeypatch.setattr(live._Handover, "pause", pause)
    with LiveSource(_clip(tmp_path / "a.mkv"), "drop") as source:
        list(source)
    assert shown == pytest.approx([index / 10 for index in range(24)])
