from __future__ import annotations

import subprocess
import sys

import av
import pytest
import torch

from tests.cli.running import fastsam2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["track", "segment", "info"]),
        (["track", "--help"], ["--point", "--box", "--mask", "--reverse", "--stream", "camera:0"]),
        (["segment", "-h"], ["--point", "--box", "objects.json"]),
    ],
)
def test_help(arguments: list[str], words: list[str]) -> None:
    outcome = fastsam2(*arguments)
    assert outcome.code == 0
    for word in words:
        assert word in outcome.out


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "fastsam2", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("fastsam2 ")


def test_without_arguments_there_is_help() -> None:
    outcome = fastsam2()
    assert "track" in outcome.out + outcome.err


def test_version() -> None:
    outcome = fastsam2("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("fastsam2 ")


def test_info_names_versions_and_devices() -> None:
    outcome = fastsam2("info")
    assert outcome.code == 0
    rows = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert rows["torch"] == torch.__version__
    assert rows["av"] == av.__version__
    assert rows["cpu"] == f"{torch.get_num_threads()} threads"
    assert rows["default"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "kernels" in rows


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, fastsam2.cli.main; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
