from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastsam2.cli.models import ModelChoice
from tests.cli.running import fastsam2, frame_result
from tests.evaluation.folders import Labels, Oracle, squares, write_davis

LABELS = {"bear": squares() + squares(obj_id=2, last=3), "motorcyclist": squares(5)}


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    listed = {"2017": ["motorcyclist", "bear"]}
    return write_davis(tmp_path / "davis", LABELS, listed=listed)


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    return _use(monkeypatch, Oracle(LABELS))


def _use(monkeypatch: pytest.MonkeyPatch, predictor: Oracle) -> Oracle:
    """Replace the model by `predictor`."""

    def propagate(state: Any, begin: int, count: int, progress: Any) -> Any:
        for frame_idx, obj_ids, logits in progress(
            predictor.propagate_in_video(state, begin, count)
        ):
            yield frame_result(frame_idx, obj_ids, logits)

    monkeypatch.setattr(ModelChoice, "video_predictor", lambda choice: predictor)
    monkeypatch.setattr(predictor, "propagate", propagate, raising=False)
    return predictor


def test_help() -> None:
    outcome = fastsam2("eval", "--help")
    assert outcome.code == 0
    for word in ("--prompt", "--json", "--limit", "--model", "--image-size", "val.txt"):
        assert word in outcome.out


class _Blind(Oracle):
    """Finds object 1 only."""

    def logits(self, truth: Labels, obj_id: int) -> Any:
        return super().logits(truth, obj_id) * (1 if obj_id == 1 else 0)


def test_table_and_document(tmp_path: Path, davis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, _Blind(LABELS))
    path = tmp_path / "new" / "found.json"
    outcome = fastsam2("eval", davis, "--json", path, "--prompt", "click", "-m", "some-model")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split()[:6] for line in lines[:4]] == [
        ["sequence", "objects", "frames", "J&F", "J", "F"],
        ["motorcyclist", "1", "5", "100.0", "100.0", "100.0"],
        # Object 2 is missed on frames 1 to 3 and absent on frame 4.
        ["bear", "2", "6", "62.5", "62.5", "62.5"],
        ["all", "3", "11", "75.0", "75.0", "75.0"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1
    assert all(float(line.split()[6]) > 0 for line in lines[1:4])
    assert "object score: AUC 1.000" in outcome.out
    assert str(path) in outcome.out
    document = json.loads(path.read_text())
    measures = {"j_and_f": 0.75, "j": 0.75, "f": 0.75, "score_auc": 1.0}
    assert {name: document[name] for name in measures} == measures
    assert (document["model"], document["prompt"]) == ("some-model", "click")
    assert document["complete"] is True
    first, second = document["sequences"]
    assert (first["name"], first["frames"], first["j"]) == ("motorcyclist", 5, 1.0)
    assert (second["name"], second["j_and_f"], second["score_auc"]) == ("bear", 0.625, 1.0)
    assert second["frames_per_second"] > 0
    assert second["objects"] == [
        {"id": 1, "prompt_frame": 0, "j_and_f": 1.0, "j": 1.0, "f": 1.0, "score_auc": None},
        {"id": 2, "prompt_frame": 0, "j_and_f": 0.25, "j": 0.25, "f": 0.25, "score_auc": 1.0},
    ]


def test_limit_and_undefined_measures(tmp_path: Path, davis: Path, oracle: Oracle) -> None:
    outcome = fastsam2("eval", davis, "--limit", "1")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == [
        "sequence",
        "motorcyclist",
        "all",
        "model",  # the hint about the default model
    ]
    late = write_davis(tmp_path / "late", {"bear": squares(first=5)})
    oracle.sequences = {"bear": squares(first=5)}
    outcome = fastsam2("eval", late, "--json", tmp_path / "late.json")
    assert outcome.out.splitlines()[1].split()[:6] == ["bear", "1", "6", "-", "-", "-"]
    assert json.loads((tmp_path / "late.json").read_text())["j_and_f"] is None


def test_a_failure_keeps_earlier_results(tmp_path: Path, davis: Path, oracle: Oracle) -> None:
    (davis / "Annotations/480p/bear/00002.png").write_bytes(b"damaged")
    path = tmp_path / "found.json"
    outcome = fastsam2("eval", davis, "--json", path)
    assert outcome.code == 1
    assert "cannot read the annotation" in outcome.line
    assert "motorcyclist" in outcome.out
    document = json.loads(path.read_text())
    assert [sequence["name"] for sequence in document["sequences"]] == ["motorcyclist"]
    assert document["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "scribble"], 2, "unknown kind of prompt 'scribble'"),
        (["--limit", "0"], 2, "--limit"),
        (["--model", "sam3-huge"], 2, "unknown model 'sam3-huge'"),
        (["--checkpoint", "x.pt", "--dtype", "int8"], 2, "unknown --dtype int8"),
        (["--checkpoint", "nowhere.pt"], 1, "nowhere.pt"),
        (["--json", "{davis}/JPEGImages"], 1, "cannot write {davis}/JPEGImages: it is a folder"),
        (["--json", "{davis}/ImageSets/2017/val.txt/x"], 1, "cannot write to the folder {davis}"),
    ],
)
def test_bad_arguments(davis: Path, arguments: list[str], code: int, message: str) -> None:
    filled = [argument.format(davis=davis) for argument in arguments]
    outcome = fastsam2("eval", davis, *filled)
    assert outcome.code == code
    assert message.format(davis=davis) in outcome.line


def test_bad_folders_are_told_before_the_model_is_loaded(tmp_path: Path, davis: Path) -> None:
    outcome = fastsam2("eval", tmp_path / "none", "--checkpoint", "nowhere.pt")
    assert outcome.code == 1
    assert "no such folder" in outcome.line
    (davis / "Annotations/480p/bear/00002.png").unlink()
    outcome = fastsam2("eval", davis, "--checkpoint", "nowhere.pt")
    assert outcome.code == 1
    assert "1 of the 6 frames of bear have no annotation" in outcome.line


def test_older_results_outlive_a_model_that_is_not_there(tmp_path: Path, davis: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text("{}")
    assert fastsam2("eval", davis, "--checkpoint", "nowhere.pt", "--json", path).code == 1
    assert path.read_text() == "{}"


def test_the_model_itself(tmp_path: Path, checkpoint: Path) -> None:
    labels = squares(4) + squares(4, first=2, obj_id=2)
    root = write_davis(tmp_path / "davis", {"bear": labels}, "")
    model = ["-m", checkpoint, "--image-size", "128", "--device", "cpu"]
    outcome = fastsam2("eval", root, *model, "--json", tmp_path / "found.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "found.json").read_text())
    assert [obj["prompt_frame"] for obj in document["sequences"][0]["objects"]] == [0, 2]
    assert 0 <= document["j"] <= 1
