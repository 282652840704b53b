"""Running the program, and a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastsam2.cli.main import app
from fastsam2.cli.models import ModelChoice


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What the program said on stderr, which is to be one line."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("fastsam2: ")
        return lines[0]


def fastsam2(*arguments: object) -> Outcome:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def tracks(folder: Path) -> Any:
    return json.loads((folder / "tracks.json").read_text())


class FakePredictor:
    """Prompts and frames go in; each object is a square that moves right with the frames."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, int, str]] = []

    def init_state(self, source: Any) -> dict[str, Any]:
        self.source = source
        self.state: dict[str, Any] = {"obj_ids": [], "output_dict_per_obj": {}}
        return self.state

    def propagate_in_video_preflight(self, state: Any) -> None:
        assert state["obj_ids"]

    def _object(self, obj_id: int) -> None:
        if obj_id not in self.state["obj_ids"]:
            self.state["output_dict_per_obj"][len(self.state["obj_ids"])] = {
                "cond_frame_outputs": {},
                "non_cond_frame_outputs": {},
            }
            self.state["obj_ids"].append(obj_id)

    def add_new_points_or_box(
        self, state: Any, frame: int, obj_id: int, points: Any, labels: Any, box: Any
    ) -> None:
        self._object(obj_id)
        text = f"{None if points is None else points.tolist()} {labels} {box}"
        self.prompts.append((frame, obj_id, text))

    def add_new_mask(self, state: Any, frame: int, obj_id: int, mask: Any) -> None:
        self._object(obj_id)
        self.prompts.append((frame, obj_id, f"mask of {int(mask.sum())}"))

    def logits(self, frame_idx: int, obj_id: int) -> Any:
        logits = np.full((self.source.height, self.source.width), -float(obj_id), np.float32)
        left = frame_idx + 8 * obj_id
        logits[10:20, left : left + 10] = obj_id
        return logits


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """Puts a FakePredictor in the place of the model."""
    predictor = FakePredictor()
    monkeypatch.setattr(ModelChoice, "video_predictor", lambda choice: predictor)
    monkeypatch.setattr("fastsam2.cli.track.propagate", _propagation(predictor, lambda _: None))
    return predictor


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, predictor: FakePredictor, act: Callable[[int], None]
) -> None:
    """Calls `act(frame_idx)` before each frame is tracked."""
    monkeypatch.setattr("fastsam2.cli.track.propagate", _propagation(predictor, act))


def _propagation(predictor: FakePredictor, act: Callable[[int], None]) -> Any:
    def propagate(
        model: Any, state: Any, begin: int, count: int, reverse: bool, progress: Any
    ) -> Iterator[tuple[int, list[int], torch.Tensor]]:
        step = -1 if reverse else 1
        for frame_idx in progress(range(begin, begin + step * (count + 1), step)):
            act(frame_idx)
            predictor.source[frame_idx]
            for index, obj_id in enumerate(state["obj_ids"]):
                score = {"object_score_logits": torch.tensor([[float(obj_id)]])}
                outputs = state["output_dict_per_obj"][index]
                outputs["non_cond_frame_outputs"][frame_idx] = score
            masks = [predictor.logits(frame_idx, obj_id) for obj_id in state["obj_ids"]]
            yield frame_idx, state["obj_ids"], torch.from_numpy(np.stack(masks))[:, None]

    return propagate
