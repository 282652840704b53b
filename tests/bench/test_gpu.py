"""Parts are isolated, and a second call continues where the first stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import gpu
from bench.gpu import Part
from bench.rows import append_rows
from bench.state import read_state
from tests.bench.rows import a_run

CALL = ["--device", "cpu", "--quick", "--out"]


def python(name: str, seconds: float, program: str) -> Part:
    return Part(name, seconds, ("timeit", "-n", "1", "-r", "1", program))


@pytest.mark.slow
def test_parts_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append_rows(tmp_path / "rows.csv", a_run()[:2])
    done = tmp_path / "done"
    count = f"open({str(done)!r}, 'a').write('x')"
    todo = [
        python("good", 300, count),
        python("slow", 0.3, "__import__('time').sleep(60)"),
        python("bad", 300, f"assert __import__('os').path.exists({str(tmp_path / 'mended')!r})"),
        python("last", 300, count),
    ]
    monkeypatch.setattr(gpu, "parts", lambda *_: todo)
    assert gpu.main([*CALL, str(tmp_path)]) == 1
    assert done.read_text() == "xx", "a part that fails loses only itself"
    ended = read_state(tmp_path, "parts")
    assert ended == {
        "good": "done", "slow": "stopped after 0 s", "bad": "failed with status 1", "last": "done",
    }  # fmt: skip
    assert "AssertionError" in (tmp_path / "log.txt").read_text()

    (tmp_path / "mended").touch()
    todo[1] = python("slow", 300, "1")
    assert gpu.main([*CALL, str(tmp_path)]) == 0
    assert done.read_text() == "xx", "a finished part was run again"
    assert set(read_state(tmp_path, "parts").values()) == {"done"}
    assert "good           done earlier" in capsys.readouterr().out
    assert gpu.main([*CALL, str(tmp_path), "--part", "good"]) == 0
    assert done.read_text() == "xxx", "unless it is asked for by name"


@pytest.mark.slow
def test_no_part_begins_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "parts", lambda *_: [python("late", 20, "1")])
    assert gpu.main([*CALL, str(tmp_path), "--seconds", "10"]) == 1
    assert read_state(tmp_path, "parts") == {"late": "no time left"}


def test_parts_have_names_of_their_own(tmp_path: Path) -> None:
    names = [part.name for part in gpu.parts(tmp_path, "cuda", quick=False)]
    assert len(names) == len(set(names))
    assert names[:5] == ["tests", "headline", "steady", "compiled", "counters"]
    quick = {part.name for part in gpu.parts(tmp_path, "cpu", quick=True)}
    assert {"tests", "roofline", "ladder", "scenarios", "kernels", "tuning"} <= quick


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "tpu"),
        (["--device", "cpu"], "requires --quick"),
        (["--device", "cpu", "--quick", "--part", "nothing"], "nothing"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
