"""Without PyAV, frames other than video files can still be tracked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules["av"] = None  # importing it raises ImportError
import numpy as np
from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.data import open_frames
from fastsam2.errors import VideoError
frames = np.zeros((1, 64, 64, 3), np.uint8)
print(len(open_frames(frames)))
try:
    open_frames(b"video")
except VideoError as error:
    print(error)
"""


@pytest.mark.slow
def test_only_video_files_need_it() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    assert done.stdout.splitlines() == [
        "1",
        "video files need PyAV, which is not installed: `pip install av`",
    ], done.stderr
