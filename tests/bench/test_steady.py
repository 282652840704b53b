"""Events of a profile, counted by kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import steady
from bench.rows import read_rows


def test_events_of_a_frame() -> None:
    names = [
        *["aten::mm", "cudaLaunchKernel", "cuLaunchKernelEx"] * 6,
        *["cudaGraphLaunch", "Memcpy HtoD (Pinned -> Device)", "cudaEventSynchronize"] * 2,
        *["Memcpy DtoH (Device -> Pinned)"] * 3,
    ]
    counts = steady.count(names, frames=2)
    assert counts == {"launches": 6, "graphs": 1, "uploads": 1, "downloads": 1.5, "waits": 0}
    assert steady.wrong(counts) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cudaLaunchKernelExC", "launches"), ("cudaStreamSynchronize", "waits")],
)
def test_too_many_events(name: str, kind: str) -> None:
    counts = steady.count(["cudaGraphLaunch", *[name] * 20], frames=1)
    assert steady.wrong(counts) == [kind]
    assert steady.wrong(steady.count([name] * 20, frames=1)) == [kind, "graphs"]


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--model", "nano", "--objects", "1"]
    assert steady.main([*arguments, "--out", str(tmp_path)]) == 0
    (row,) = read_rows(tmp_path / "rows.csv")
    assert row.note == "0 launches, 0 graphs, 0 uploads, 0 downloads, 0 waits"
