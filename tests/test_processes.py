"""Sources, loaders and caches made before a fork, used in the child."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam2.data.frame_source import Frame, FrameSource
from fastsam2.data.live import LiveSource
from fastsam2.data.loader import FrameLoader
from fastsam2.data.open_frames import open_frames
from fastsam2.engine.feature_cache import FeatureCache
from fastsam2.errors import VideoError
from tests.data.videos import decode_in_order, moving_frames, write_jpegs, write_video

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

ROOT = Path(__file__).parents[1]
FRAMES = moving_frames(24)


def in_a_fork(work: Callable[[], Any]) -> Any:
    """Result of `work` in a forked process; fails if there is none after 60 seconds."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(work()))
    process.start()
    try:
        return queue.get(timeout=60)
    finally:
        process.kill()
        process.join()


class _Slow(FrameSource):
    """Frames that take a while, so that a fork falls into a read of the prefetch thread."""

    def __init__(self) -> None:
        super().__init__("the test's frames")
        self.height, self.width = FRAMES.shape[1:3]
        self.begun = 0

    def __len__(self) -> int:
        return len(FRAMES)

    def _read(self, frame_idx: int) -> Frame:
        self.begun += 1
        time.sleep(0.3 if frame_idx else 0)
        return FRAMES[frame_idx].view()

    def _release(self) -> None: ...


def test_a_loader_reads_on_in_a_fork_while_its_thread_reads() -> None:
    source = _Slow()
    loader = FrameLoader(source, 32)
    loader[0]
    while source.begun < 2:
        time.sleep(0.01)
    here = [loader[frame_idx].numpy() for frame_idx in (1, 2)]
    while source.begun < 4:
        time.sleep(0.01)
    there = in_a_fork(lambda: [loader[frame_idx].numpy() for frame_idx in (1, 2, 3, 4)])
    np.testing.assert_array_equal(there[:2], here)
    np.testing.assert_array_equal(there[2:], [loader[frame_idx].numpy() for frame_idx in (3, 4)])


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "frames"])
def test_parent_and_child_read_the_same_video(tmp_path: Path, name: str) -> None:
    if name == "frames":
        path = write_jpegs(tmp_path / name, FRAMES)
        expected = list(open_frames(path))
    else:
        codec = "libx264" if name == "a.mp4" else "libvpx-vp9"
        path = write_video(tmp_path / name, FRAMES, codec, options={"g": "8"})
        expected = decode_in_order(path)
    with open_frames(path, cache_bytes=1) as source:
        source[5]
        order = (6, 20, 3, 23)
        there = in_a_fork(lambda: [source[frame_idx] for frame_idx in order])
        here = [source[frame_idx] for frame_idx in order]
    for frame_idx, a, b in zip(order, here, there, strict=True):
        np.testing.assert_array_equal(a, expected[frame_idx])
        np.testing.assert_array_equal(b, expected[frame_idx])


def test_a_child_can_close_a_video_and_exit(tmp_path: Path) -> None:
    """Freeing the parent's decoder would wait for threads that the child does not have."""
    script = """
import os, sys
from fastsam2.data.open_frames import open_frames
source = open_frames(sys.argv[1])
source[5]
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
source.close()
del source
sys.exit(7)
"""
    path = write_video(tmp_path / "a.mp4", FRAMES)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 7


def test_features_are_encoded_in_a_fork_while_the_thread_encodes() -> None:
    begun, proceed, parent = threading.Event(), threading.Event(), os.getpid()
    images = torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, 3, 2, 2)

    def encode(batch: Tensor) -> dict[str, Any]:
        if threading.current_thread() is not threading.main_thread() and os.getpid() == parent:
            begun.set()
            proceed.wait(60)
        return {"vision_features": batch, "vision_pos_enc": [], "backbone_fpn": [batch]}

    cache, cpu = FeatureCache(images, ahead=2), torch.device("cpu")

    def features(frame_idx: int) -> float:
        then = range(frame_idx + 1, frame_idx + 5)
        return float(cache.get(encode, cpu, frame_idx, then).image[0, 0, 0, 0])

    features(0)
    features(1)
    assert begun.wait(60)
    assert in_a_fork(lambda: [features(frame_idx) for frame_idx in range(8)]) == list(range(8))
    proceed.set()
    assert [features(frame_idx) for frame_idx in range(8)] == list(range(8))


def test_a_live_source_ends_with_an_error_in_a_fork() -> None:
    proceed = threading.Event()

    def frames() -> Iterator[Frame]:
        yield FRAMES[0]
        proceed.wait(60)
        yield FRAMES[1]

    def message() -> str:
        with pytest.raises(VideoError) as caught:
            list(source)
        return str(caught.value)

    with LiveSource(frames()) as source:
        assert "by the process that opened it only" in in_a_fork(message)
        proceed.set()
        assert len(list(source)) == 2
