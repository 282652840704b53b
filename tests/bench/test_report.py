"""Tables and plots of rows."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report
from bench.plots import draw
from bench.rows import append_rows
from bench.verify import OPS, Verdict
from tests.bench.rows import a_run, frame

PASSED = {op: Verdict(op, True, "1 passed", "", "cuda") for op in OPS}


def test_tables() -> None:
    shown = report.markdown(a_run(), PASSED)
    assert "NVIDIA H200, torch 2.11.0, triton 3.6.0, commit abc1234" in shown
    assert "| copy, bf16 | 4300 GB/s |" in shown
    ours = next(x for x in shown.splitlines() if "| 8 | fastsam2 |" in x)
    assert "| 70.00 |" in ours
    assert "| 9.86x | 5.83x |" in ours
    rung = next(x for x in shown.splitlines() if "16 objects | + kernels |" in x)
    assert "| 25.00 | 6.94x | 0.9991 |" in rung
    assert "| memory attention | bf16 | 1 | fastsam2 | 3.000 | 3.00x | 40 % |" in shown
    assert "withheld" not in shown


def test_the_last_row_counts() -> None:
    rows = [frame("sam2", 10.0), frame("sam2", 20.0), frame("sam2", None, 8, note="failed: OOM")]
    shown = report.markdown(rows, PASSED)
    assert "| 20.00 |" in shown
    assert "| 10.00 |" not in shown
    assert "failed: OOM" in shown


def test_only_like_is_compared() -> None:
    """Rows of another PyTorch version or commit are not compared."""
    rows = [frame("sam2", 10.0, torch="2.10.0"), frame("fastsam2", 40.0)]
    assert report.speedup(rows[1], "sam2", rows, PASSED) == ""
    rows.append(replace(rows[0], torch=rows[1].torch))
    assert report.speedup(rows[1], "sam2", rows, PASSED) == "4.00x"


def test_plots(tmp_path: Path) -> None:
    paths = list(draw(a_run(), tmp_path))
    assert [p.stem for p in paths] == ["frames_per_second", "ladder", "stages", "memory"]
    for path in paths:
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width >= 700
        assert height >= 200
    assert list(draw(a_run()[:1], tmp_path)) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report.main([str(tmp_path)])
    assert "no such file" in capsys.readouterr().err
    append_rows(tmp_path / "rows.csv", a_run()[:4])
    assert report.main([str(tmp_path)]) == 0
    assert "## Frames per second" in (tmp_path / "report.md").read_text()
    assert "frames_per_second.png" in capsys.readouterr().out
