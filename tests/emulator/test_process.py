"""The quick tests of this folder, in a process whose kernels are not interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

knobs = pytest.importorskip("triton.knobs")


@pytest.mark.skipif(
    not hasattr(knobs.runtime, "add_stages_inspection_hook"), reason="needs Triton 3.6"
)
@pytest.mark.slow
def test_quick_part() -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(folder), "-m", "not slow", "-q"],
        cwd=folder.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
