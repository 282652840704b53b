from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastsam2.data.frame_source import Frame, FrameSource
from fastsam2.data.loader import FrameLoader
from fastsam2.data.open_frames import open_frames
from fastsam2.data.preprocess import preprocess_frame
from fastsam2.errors import VideoError
from tests.data.videos import moving_frames

ROOT = Path(__file__).parents[2]
FRAMES = moving_frames(20)
SIZE = 32
IMAGE_BYTES = 3 * SIZE * SIZE


class _Source(FrameSource):
    """Frames in memory; records reads and their threads, and fails on chosen frames."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        super().__init__("the test's frames")
        self.height, self.width = FRAMES.shape[1:3]
        self.failing = failing
        self.reads: list[tuple[int, bool]] = []

    def __len__(self) -> int:
        return len(FRAMES)

    def _read(self, frame_idx: int) -> Frame:
        ahead = threading.current_thread() is not threading.main_thread()
        self.reads.append((frame_idx, ahead))
        if frame_idx in self.failing:
            raise VideoError(f"frame {frame_idx} is damaged", frame_idx)
        return FRAMES[frame_idx].view()

    def _release(self) -> None: ...

    @property
    def read_ahead(self) -> list[int]:
        return [frame_idx for frame_idx, ahead in self.reads if ahead]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def _settle(source: _Source) -> None:
    """Wait until the thread is idle."""
    count = -1
    while count != len(source.reads):
        count = len(source.reads)
        time.sleep(0.05)


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.parametrize("cache_frames", [1, 6])
def test_frames_are_preprocessed_in_any_order(prefetch: int, cache_frames: int) -> None:
    loader = FrameLoader(
        open_frames(FRAMES), SIZE, cache_bytes=cache_frames * IMAGE_BYTES, prefetch=prefetch
    )
    assert (len(loader), loader.video_height, loader.video_width) == (20, 48, 64)
    orders = [range(20), range(19, -1, -1), np.random.default_rng(0).permutation(20).tolist()]
    for order in orders:
        for frame_idx in order:
            image = loader[frame_idx]
            assert image.dtype == torch.float32
            assert torch.equal(image, preprocess_frame(FRAMES[frame_idx], SIZE))
    assert torch.equal(loader[-1], preprocess_frame(FRAMES[19], SIZE))
    with pytest.raises(IndexError, match="20 frames"):
        loader[20]


def test_it_reads_ahead_in_the_direction_of_travel_and_no_further() -> None:
    source = _Source()
    loader = FrameLoader(source, SIZE, prefetch=3)
    loader[5]
    _wait_for(lambda: len(source.read_ahead) == 3)
    _settle(source)
    assert source.read_ahead == [6, 7, 8]
    loader[4]
    _wait_for(lambda: len(source.read_ahead) == 6)
    _settle(source)
    assert source.read_ahead == [6, 7, 8, 3, 2, 1]
    for frame_idx in (3, 2, 1, 0):
        loader[frame_idx]
    assert sorted(frame_idx for frame_idx, _ in source.reads) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_frame_is_read_once_when_all_fit() -> None:
    source = _Source()
    loader = FrameLoader(source, SIZE, prefetch=4)
    for frame_idx in range(20):
        loader[frame_idx]
    assert sorted(frame_idx for frame_idx, _ in source.reads) == list(range(20))


def test_the_cache_is_bounded() -> None:
    source = _Source()
    loader = FrameLoader(source, SIZE, cache_bytes=3 * IMAGE_BYTES, prefetch=10)
    loader[0]
    _settle(source)
    # Two prefetched and the one in use.
    assert source.read_ahead == [1, 2]
    for frame_idx in range(20):
        loader[frame_idx]
    _settle(source)
    assert len(loader._reader._cache) == 3


def test_an_error_in_the_thread_is_raised_for_its_frame_only() -> None:
    source = _Source(failing=(6,))
    loader = FrameLoader(source, SIZE, prefetch=4)
    loader[3]
    _wait_for(lambda: 6 in source.read_ahead)
    for frame_idx in (4, 5, 7):
        assert torch.equal(loader[frame_idx], preprocess_frame(FRAMES[frame_idx], SIZE))
    for _ in range(2):
        with pytest.raises(VideoError, match="frame 6 is damaged") as caught:
            loader[6]
        assert caught.value.frame_idx == 6


def test_a_frame_that_failed_ahead_may_be_read_later() -> None:
    source = _Source(failing=(1,))
    loader = FrameLoader(source, SIZE, prefetch=1)
    loader[0]
    _wait_for(lambda: source.read_ahead == [1])
    with pytest.raises(VideoError):
        loader[1]
    source.failing = ()
    assert torch.equal(loader[1], preprocess_frame(FRAMES[1], SIZE))


def test_the_thread_ends_with_the_loader() -> None:
    source = _Source()
    loader = FrameLoader(source, SIZE)
    loader[0]
    thread = loader._reader._thread
    assert thread is not None
    assert thread.daemon
    dropped = weakref.ref(loader)
    del loader
    gc.collect()
    assert dropped() is None
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.slow
def test_the_thread_ends_before_the_interpreter() -> None:
    """A thread inside PyTorch at shutdown would abort the process (SIGABRT)."""
    script = """
import atexit, threading, time

def report():
    print([t.name for t in threading.enumerate() if t.name == "fastsam2-prefetch"])

atexit.register(report)  # registered first, so run last

from tests.data.test_loader import SIZE, FrameLoader, _Source

class Slow(_Source):
    def _read(self, frame_idx):
        time.sleep(0.3 if frame_idx else 0.0)
        return super()._read(frame_idx)

loader = FrameLoader(Slow(), SIZE)
loader[0]
report()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['fastsam2-prefetch']", "[]"]


def test_closing_ends_the_thread_and_leaves_the_frames() -> None:
    loader = FrameLoader(_Source(), SIZE)
    loader[0]
    thread = loader._reader._thread
    assert thread is not None
    loader.close()
    loader.close()
    thread.join(5)
    assert not thread.is_alive()
    assert torch.equal(loader[2], preprocess_frame(FRAMES[2], SIZE))


def test_no_thread_before_the_first_access_or_without_prefetch() -> None:
    loader = FrameLoader(_Source(), SIZE)
    assert loader._reader._thread is None
    eager = FrameLoader(_Source(), SIZE, prefetch=0)
    eager[0]
    assert eager._reader._thread is None
