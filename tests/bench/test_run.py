"""Run the benchmarks at tiny sizes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import scenarios, tune
from bench.clips import make_video
from bench.ladder import RUNGS
from bench.peers import Ours, Sam2, Setting, track
from bench.rows import Row, read_rows
from bench.run import main
from fastsam2_kernels.memory_keys import tuning

SMALL = ["--dtype", "fp32", "--image-size", "64", "--frames", "1", "--no-verify", "--device", "cpu"]


@pytest.mark.slow
def test_track_with_nano(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["track", *SMALL, "--model", "nano", "--objects", "1", "2", "--out", str(tmp_path)]
    assert main(call) == 0
    rows = {(row.impl, row.objects): row for row in read_rows(tmp_path / "rows.csv")}
    for objects in (1, 2):
        for impl in ("sam2", "fastsam2"):
            row = rows[impl, objects]
            assert row.p50_ms is not None
            assert row.p50_ms > 0
        assert rows["transformers", objects].note.startswith(
            "its configuration does not support nano"
        )
        assert rows["sam2 vos_optimized", objects].note == "vos_optimized needs CUDA"
    assert (rows["fastsam2", 2].gflop or 0) > (rows["fastsam2", 1].gflop or 0) > 0
    assert 0 < (rows["fastsam2", 1].of_roof or 0) < 1
    assert "withheld" in capsys.readouterr().out


def test_peers_find_the_same() -> None:
    setting = Setting("nano", 128, 2, "fp32")
    clip = make_video(2, 30, (90, 120))
    found = []
    for peer in (Sam2(), Ours(), Ours(impl="reference")):
        model = peer.build(setting)
        model.fill_hole_area = 0
        found.append(next(track(peer, model, setting, clip)))
    for masks in found[1:]:
        torch.testing.assert_close(masks, found[0], atol=1e-3, rtol=1e-3)


def test_one_that_fails_loses_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("nano", 64, 1, "fp32")

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory\nat all")

    broken, whole = Ours("broken"), Ours("whole")
    monkeypatch.setattr(broken, "open", fail)
    rows = {row.impl: row for row in scenarios.track_rows([broken, whole], setting, [1], 1)}
    assert rows["broken"].note == "failed: OutOfMemoryError: no memory"
    assert rows["whole"].p50_ms is not None


def test_clips_go_back_and_forth() -> None:
    clip = make_video(20, 40, (90, 120))
    assert clip.frames.shape == (16, 90, 120, 3)
    assert [clip.place(t) for t in (0, 1, 15, 16, 30, 31)] == [0, 1, 15, 14, 0, 1]
    assert clip.boxes.shape == (20, 4)
    assert (clip.boxes[:, 2:] > clip.boxes[:, :2]).all()
    assert (clip.boxes >= 0).all()
    assert (clip.boxes <= np.array([120, 90, 120, 90]) * 1.05).all()


def test_ladder_adds_one_flag_a_rung() -> None:
    cuda = Setting(dtype="bf16", device=torch.device("cuda"))
    plans = [rung.plan(cuda) for rung in RUNGS.values() if isinstance(rung, Ours)]
    for below, above in itertools.pairwise(plans):
        assert sum(getattr(below, f) != getattr(above, f) for f in vars(below)) == 1
    assert vars(plans[-1]) | {"dtype": None} == {
        "dtype": None, "impl": "auto", "compile": True, "graphs": True, "encoder_batch": 4,
    }  # fmt: skip
    cpu = Setting(dtype="fp32")
    assert RUNGS["+ graphs"].missing(cpu) == "graphs needs CUDA"
    last = RUNGS["+ compiled"]
    assert isinstance(last, Ours)
    assert not last.plan(cpu).graphs, "CUDA options must be ignored on a CPU"


def test_launches_are_replaced_for_a_while() -> None:
    asked: list[dict[str, object]] = []
    device = torch.device("cpu")
    before = tuning.tuned(256, torch.bfloat16, device)
    with tune.launching("memory_keys", {"block_t": 16}, asked):
        assert tuning.tuned(256, torch.bfloat16, device).block_t == 16
    assert asked == [{"dim": 256, "dtype": "bfloat16"}]
    assert tuning.tuned(256, torch.bfloat16, device) == before
    assert tune._distance(torch.ones(3), torch.ones(3)) == 0
    assert tune._distance(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        (["track", "--image-size", "100"], "not 100"),
        (["track", "--objects", "0"], "0"),
        (["track", "--impl", "sam3"], "sam3"),
        (["track", "--model", "huge"], "huge"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_rows_of_a_failed_op_say_so() -> None:
    assert scenarios.failed(ValueError("")) == "failed: ValueError"
    assert Row("op", "x", "kernel").p50_ms is None
