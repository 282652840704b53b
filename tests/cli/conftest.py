from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.videos import Frames, moving_frames, write_video


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Restore the default handler: shells start background jobs with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def frames() -> Frames:
    return moving_frames(12, 48, 64)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Path:
    """Video of 12 frames of 64x48 pixels; every fourth is a key frame."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    options = {"g": "4", "bf": "0", "sc_threshold": "0"}
    faststart = {"movflags": "faststart"}
    return write_video(path, frames, options=options, container_options=faststart)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the smallest model, in the official format."""
    from tests import reference

    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    return reference.save_checkpoint(reference.video_predictor("sam2.1-tiny", 128), path)
