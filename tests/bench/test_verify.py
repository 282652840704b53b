"""Speed-ups are withheld unless the tests pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import verify
from bench.report import markdown, speedup
from bench.rows import Row
from tests.bench.rows import WHERE, frame

OP = "memory_keys"


@pytest.fixture
def tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-in for the folder `tests/kernels`."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setattr(verify, "_TESTS", folder)
    return folder


def op_rows() -> tuple[Row, Row]:
    about = {"image_size": 1024, "objects": 1, "dtype": "bf16", **WHERE}
    theirs = Row("op", OP, "reference", p50_ms=3.0, **about)  # type: ignore[arg-type]
    ours = Row("op", OP, "kernel", p50_ms=1.0, **about)  # type: ignore[arg-type]
    return theirs, ours


@pytest.mark.slow
def test_a_broken_op_has_no_speedup(tests: Path, tmp_path: Path) -> None:
    test = tests / f"test_{OP}.py"
    rows = op_rows()
    test.write_text("def test_op():\n    assert 1 + 1 == 3\n")
    verdicts = verify.verify([OP], tmp_path, "cpu")
    assert not verdicts[OP].passed
    assert "1 failed" in verdicts[OP].summary
    assert speedup(rows[1], "reference", rows, verdicts) == "withheld"
    shown = markdown(rows, verdicts)
    assert "3.00x" not in shown
    assert f"{OP}: 1 failed" in shown

    # A change of the sources invalidates the verdict.
    test.write_text("def test_op():\n    assert 1 + 1 == 2\n")
    assert verify.read_verdicts(tmp_path, "cpu") == {}
    verdicts = verify.verify([OP], tmp_path, "cpu")
    assert verdicts[OP].passed
    assert speedup(rows[1], "reference", rows, verdicts) == "3.00x"
    # A verdict is valid for the device of the tests.
    assert verify.read_verdicts(tmp_path, "cpu").keys() == {OP}
    assert verify.read_verdicts(tmp_path, "cuda") == {}
    # A valid verdict is not computed again.
    assert verify.verify([OP], tmp_path, "cpu") == verdicts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("import pytest\ndef test_op():\n    pytest.skip('no GPU')\n", "1 skipped"),
        ("import nothing_of_that_name\n", "1 error"),
        ("import time\ndef test_op():\n    time.sleep(60)\n", "not done after 1 s"),
    ],
)
def test_nothing_shown_is_not_passed(tests: Path, tmp_path: Path, text: str, summary: str) -> None:
    (tests / f"test_{OP}.py").write_text(text)
    verdict = verify.verify([OP], tmp_path, "cpu", limit=600 if "not done" not in summary else 1)
    assert not verdict[OP].passed
    assert summary in verdict[OP].summary


def test_whole_frames_rest_on_all_ops() -> None:
    rows = [frame("sam2", 10.0), frame("fastsam2", 40.0), frame("transformers", 5.0)]
    passed = {op: verify.Verdict(op, True, "1 passed", "", "cpu") for op in verify.OPS}
    assert len(verify.OPS) == 8
    assert speedup(rows[1], "sam2", rows, passed) == "4.00x"
    del passed["rope_attention"]
    assert speedup(rows[1], "sam2", rows, passed) == "withheld"
    # Baselines need no passing tests.
    assert speedup(rows[2], "sam2", rows, {}) == "0.50x"
    assert "rope_attention: tests not run" in markdown(rows, passed)


def test_unknown_op(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        verify.main(["memory_keyz"])
    assert "no such op: memory_keyz" in capsys.readouterr().err
