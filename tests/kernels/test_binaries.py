"""No frame of a video compiles a kernel again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton.knobs")


@pytest.mark.slow
def test_one_binary_for_any_number_of_frames_and_objects() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = [sys.executable, "-m", "tests.kernels.binaries"]
    out = subprocess.run(script, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(out.stdout) == {
        "memory_keys_kernel": 1,
        "rotate_kernel": 1,
        "memory_attention_kernel": 1,
        "combine_kernel": 1,
    }
