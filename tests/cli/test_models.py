"""Default model of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fastsam2.cli.models import ModelChoice
from fastsam2.engine.plan import Plan
from tests.cli.running import fastsam2, tracks


def test_nano_is_the_default_and_prints_a_hint(tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    outcome = fastsam2("track", clip, "--point", "20,20", "--end", "2", "-o", out)
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.out.splitlines() if line.startswith("  model ")]
    assert len(said) == 1
    assert "nano" in said[0]
    assert "--model sam2.1-tiny" in said[0]
    assert tracks(out)["model"] == "nano"


def test_nothing_is_said_where_a_model_is_named(tmp_path: Path, clip: Path) -> None:
    outcome = fastsam2(
        "track", clip, "--point", "20,20", "--end", "1", "-m", "nano", "-o", tmp_path / "out"
    )
    assert outcome.code == 0, outcome.err
    assert "sam2.1" not in outcome.out


def test_fast_takes_the_plan_of_the_device() -> None:
    plan = Plan.auto(torch.device("cpu"))
    assert ModelChoice(fast=True, device="cpu").video_predictor().plan == plan
    half = ModelChoice(fast=True, device="cpu", dtype="float16").video_predictor()
    assert half.plan == replace(plan, dtype=torch.float16)
    assert ModelChoice(device="cpu").video_predictor().dtype == torch.float32


def test_fast_on_the_command_line(tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    outcome = fastsam2("track", clip, "--point", "20,20", "--end", "1", "--fast", "-o", out)
    assert outcome.code == 0, outcome.err
    assert len(tracks(out)["frames"]) == 2
