"""Run the program with a stand-in for the model."""

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
from fastsam2.predictors.results import FrameResult


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Output on stderr, checked to be a single line."""
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


def frame_result(frame_idx: int, obj_ids: list[int], logits: torch.Tensor) -> FrameResult:
    """Result with these logits, `[O, 1, H, W]` at the size of the video."""
    scores = torch.tensor(obj_ids, dtype=torch.float32)
    height, width = logits.shape[-2:]
    return FrameResult(frame_idx, obj_ids, logits, scores, scores, (height, width))


class FakePredictor:
    """Video predictor whose objects are squares that move right, one pixel per frame."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, int, str]] = []
        self.act: Callable[[int], None] = lambda frame_idx: None  #: called before each frame

    def init_state(self, source: Any, history: str) -> dict[str, Any]:
        assert history == "window"
        self.size = source.height, source.width
        return {"obj_ids": [], "source": source}

    def propagate(
        self, state: Any, begin: int, count: int, reverse: bool, progress: Any
    ) -> Iterator[FrameResult]:
        step = -1 if reverse else 1
        for frame_idx in progress(range(begin, begin + step * (count + 1), step)):
            self.act(frame_idx)
            state["source"][frame_idx]
            yield self.result(frame_idx, state["obj_ids"])

    def result(self, frame_idx: int, obj_ids: list[int]) -> FrameResult:
        masks = np.zeros((0, *self.size), np.float32)
        if obj_ids:
            masks = np.stack([self.logits(frame_idx, obj_id) for obj_id in obj_ids])
        return frame_result(frame_idx, list(obj_ids), torch.from_numpy(masks)[:, None])

    def _object(self, state: Any, obj_id: int) -> None:
        if obj_id not in state["obj_ids"]:
            state["obj_ids"].append(obj_id)

    def add_new_points_or_box(
        self, state: Any, frame: int, obj_id: int, points: Any, labels: Any, box: Any
    ) -> None:
        self._object(state, obj_id)
        text = f"{None if points is None else points.tolist()} {labels} {box}"
        self.prompts.append((frame, obj_id, text))

    def add_new_mask(self, state: Any, frame: int, obj_id: int, mask: Any) -> None:
        self._object(state, obj_id)
        self.prompts.append((frame, obj_id, f"mask of {int(mask.sum())}"))

    def logits(self, frame_idx: int, obj_id: int) -> Any:
        logits = np.full(self.size, -float(obj_id), np.float32)
        left = frame_idx + 8 * obj_id
        logits[10:20, left : left + 10] = obj_id
        return logits


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """Replace the model by a FakePredictor."""
    predictor = FakePredictor()
    monkeypatch.setattr(ModelChoice, "video_predictor", lambda choice: predictor)
    return predictor
