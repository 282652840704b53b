"""Rows in a file, and their conditions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.rows import Row, append_rows, commit, conditions, measured_on, read_rows
from bench.state import read_state, update_state
from tests.bench.rows import a_run, frame


def test_rows_come_back(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.csv", [*a_run(), frame("sam2", None, note='a, "b"')]
    append_rows(path, rows[:3])
    append_rows(path, rows[3:])
    found = read_rows(path)
    assert [r.impl for r in found] == [r.impl for r in rows]
    assert found[-1] == rows[-1]
    assert found[1].per_second == pytest.approx(48.0)
    assert (found[1].objects, found[1].iou) == (1, None)


def test_another_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("kind,name\ntrack,frame\n")
    with pytest.raises(ValueError, match=r"rows\.csv:2: not a row"):
        read_rows(path)


def test_conditions_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    where = measured_on(torch.device("cpu"))
    assert "threads" in where["device"]
    line = conditions([Row("", "", "", **where)] * 2)
    assert line.count("torch") == 1
    assert where["commit"] in line
    monkeypatch.setenv("FASTSAM2_COMMIT", "f00")
    commit.cache_clear()
    assert measured_on(torch.device("cpu"))["commit"] == "f00"
    commit.cache_clear()


def test_state_of_two_topics(tmp_path: Path) -> None:
    assert read_state(tmp_path, "parts") == {}
    update_state(tmp_path, "parts", {"a": "done"})
    update_state(tmp_path, "verdicts", {"b": 1})
    update_state(tmp_path, "parts", {"c": "failed"})
    assert read_state(tmp_path, "parts") == {"a": "done", "c": "failed"}
    assert read_state(tmp_path, "verdicts") == {"b": 1}
