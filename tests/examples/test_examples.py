"""Each example runs, is short, and prints the result that it is there to show."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"
#: A regular expression that the output of each example matches.
OUTPUT = {
    "automatic_masks.py": r"(box .*, \d{4} pixels, predicted IoU 0\.9\d\n){3}$",
    "correct_a_mask.py": r"frame 11: \[1\d\d, 4\d, .*, corrected \[3\d, 14\d, ",
    "demo.py": r"J&F 9\d\.\d on a clip",
    "drop_in.py": r"\{0: 1[78]\d\d, .* 11: 1[67]\d\d\}",
    "evaluate_davis.py": r"all: J 9\d\.\d, F \d+\.\d, J&F 9\d\.\d",
    "export_masks.py": r"written: masks overlay\.mp4 tracks\.json",
    "half_precision.py": r"torch\.bfloat16: .*\nIoU of the masks: 0\.9[89]",
    "moving_picture.py": r"tracking\.webp: 36 frames, [2-4]\d\d kB",
    "pause_and_resume.py": r"(frame \d: the same masks as without the pause: True\n){4}$",
    "segment_image.py": r"(click|box): \d{4} pixels, predicted IoU 0\.9\d",
    "several_objects.py": r"frame 11: objects \[1, 2\], areas \[4\d\d\d, 5\d\d\]",
    "stream.py": r"frame 8: \['left', 'right'\] .*\nframe 9: \['right'\]",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == OUTPUT.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUT)
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, "results"])
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert re.search(OUTPUT[name], capsys.readouterr().out)
    # Nothing is written but into the folder that was given.
    assert {path.name for path in tmp_path.iterdir()} <= {"results"}


@pytest.mark.parametrize("name", OUTPUT)
def test_example_is_short(name: str) -> None:
    """Under 40 lines, and opened by one plain sentence."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    opening = ast.get_docstring(ast.parse(text)) or ""
    assert opening.endswith(".")
    assert "\n" not in opening
