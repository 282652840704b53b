"""No frame of a video compiles a kernel again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fastsam2_kernels.dispatch import has_gluon

pytest.importorskip("triton.knobs")


@pytest.mark.slow
def test_one_binary_for_any_number_of_frames_and_objects() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = [sys.executable, "-m", "tests.kernels.binaries"]
    out = subprocess.run(script, env=environment, check=True, capture_output=True, text=True)
    expected = {
        "memory_keys_kernel": 1,
        "rotate_kernel": 1,
        "memory_attention_kernel": 1,
        "combine_kernel": 1,
    }
    if has_gluon():
        expected["memory_attention_gluon_kernel"] = 1
    assert json.loads(out.stdout) == expected
