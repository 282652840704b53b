"""A steady frame on a pretended GPU: no wait, one upload, few launches beside the graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.predictors.stream import StreamSession
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.pretend_cuda import Event, PretendedCuda
from tests.predictors.nano import nano_predictor
from tests.reference import randomise_
from tests.support import SHALLOW, frames_rgb

#: Maps and pointers of all frames that the model reads exist, and leave the device.
STEADY = 20
CLIP = frames_rgb(24)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuda]:
    with PretendedCuda().installed(monkeypatch) as gpu:
        yield gpu


def predictor(gpu: PretendedCuda, graphs: bool | Literal["steady"] = True) -> SAM2VideoPredictor:
    model = randomise_(nano_predictor(memory_dtype=torch.float32))
    gpu.move(model)
    model.runner = Runner(Plan(graphs=graphs, encoder_batch=4), lambda: gpu)
    return model


def click(obj_id: int) -> dict[str, Any]:
    return {"points": [[30 + 5 * obj_id, 40 + 4 * obj_id]], "labels": [1]}


def assert_steady(frames: list[list[Event]], uploads: int, downloads: int) -> None:
    """Check every frame; the encoder's thread may add the uploads of a batch."""
    for events in frames:
        tracker = [e for e in events if "_encode_batch" not in e.functions]
        unwanted = [e for e in events if e.kind not in ("launch", "upload", "download", "replay")]
        assert unwanted == [], "\n".join(map(str, unwanted))
        for kind, most in (("launch", 12), ("upload", uploads), ("download", downloads)):
            found = [e for e in tracker if e.kind == kind]
            assert len(found) <= most, "\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objects", "options"),
    [
        (1, {}),
        (2, {"history": "window"}),
        (2, {"offload_video_to_cpu": True, "offload_state_to_cpu": True}),
        (8, {}),
        (16, {"history": "window"}),
    ],
    ids=str,
)
def test_video(gpu: PretendedCuda, objects: int, options: dict[str, Any]) -> None:
    model = predictor(gpu)
    state = model.init_state(CLIP, **options)
    for obj_id in range(objects):
        model.add_new_points_or_box(state, 0, obj_id, **click(obj_id))
    frames = []
    for result in model.propagate(state, progress=lambda frames, desc: frames):
        result.to_host()
        frames.append(gpu.take())
    assert_steady(frames[STEADY:], uploads=1, downloads=2)


@pytest.mark.slow
def test_without_a_plan(gpu: PretendedCuda) -> None:
    """Steady frames are recorded."""
    model = predictor(gpu, graphs="steady")
    state = model.init_state(CLIP)
    model.add_new_points_or_box(state, 0, 0, **click(0))
    frames = []
    for result in model.propagate(state, progress=lambda frames, desc: frames):
        result.to_host()
        frames.append(gpu.take())
    assert_steady(frames[STEADY:], uploads=1, downloads=2)
    recorded = [[e for e in events if e.kind == "replay"] for events in frames]
    assert recorded[:8] == [[]] * 8
    assert all(recorded[12:])


@pytest.mark.slow
def test_stream(gpu: PretendedCuda) -> None:
    stream = StreamSession(predictor(gpu))
    stream.step(CLIP[0])
    for obj_id in range(3):
        stream.add_object(obj_id, **click(obj_id))
    frames = []
    for frame in CLIP[1:]:
        stream.step(frame[..., ::-1]).to_host()
        frames.append(gpu.take())
    # The frame itself, and the tables.
    assert_steady(frames[STEADY:], uploads=2, downloads=1)


@pytest.mark.slow
def test_launches_of_a_step(gpu: PretendedCuda) -> None:
    """A recorded step of a model with four layers of memory attention, as official ones have."""
    model = randomise_(
        build_sam2_video_predictor(
            "sam2.1-tiny",
            device="cpu",
            dtype=torch.bfloat16,
            hydra_overrides_extra=[*SHALLOW, "++model.image_size=128"],
        )
    )
    gpu.move(model)
    model.runner = Runner(Plan(graphs=True), lambda: gpu)
    captured = []
    for _ in range(2):  # constants are computed in the first
        state = model.init_state(CLIP[:2])
        model.add_new_points_or_box(state, 0, 0, **click(0))
        _, _ = model.propagate(state, progress=lambda frames, desc: frames)
        captured.append([e for e in gpu.take() if e.kind == "captured"])
        model.runner = Runner(Plan(graphs=True), lambda: gpu)
    step = [e for e in captured[1] if "pyramid" not in e.functions]
    assert 100 < len(step) <= 160, "\n".join(map(str, step))


@pytest.mark.slow
def test_results_are_those_of_the_cpu(gpu: PretendedCuda) -> None:
    def track(model: SAM2VideoPredictor) -> list[np.ndarray]:
        state = model.init_state(CLIP)
        for obj_id in range(2):
            model.add_new_points_or_box(state, 0, obj_id, **click(obj_id))
        return [result.to_host().labels for result in model.propagate(state)]

    found = track(predictor(gpu))
    expected = track(randomise_(nano_predictor(memory_dtype=torch.float32)))
    for a, b in zip(found, expected, strict=True):
        assert (a != b).mean() <= 1e-3
    assert any(b.any() for b in expected)
