"""Predictors on two pretended GPUs, in two threads, share nothing."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.pretend_cuda import PretendedCuda
from tests.predictors.nano import nano_predictor
from tests.reference import randomise_
from tests.support import frames_rgb

pytestmark = pytest.mark.slow

CLIP = frames_rgb(10)
FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuda]:
    with PretendedCuda().installed(monkeypatch) as gpus:
        yield gpus


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return list(labels(randomise_(nano_predictor(memory_dtype=torch.float32))))


def predictor(gpus: PretendedCuda, device: torch.device) -> SAM2VideoPredictor:
    model = randomise_(nano_predictor(memory_dtype=torch.float32))
    gpus.move(model, device)
    model.runner = Runner(Plan(graphs=True, encoder_batch=2), lambda: gpus)
    return model


def labels(model: SAM2VideoPredictor) -> Iterator[np.ndarray]:
    state = model.init_state(CLIP)
    for obj_id in range(2):
        point = [[30 + 5 * obj_id, 40 + 4 * obj_id]]
        model.add_new_points_or_box(state, 0, obj_id, points=point, labels=[1])
    for result in model.propagate(state, progress=lambda frames, desc: frames):
        yield result.to_host().labels


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a != b).mean() <= 1e-3


def assert_clean(gpus: PretendedCuda) -> None:
    """Check that no operation took tensors of both devices, or of a device and the host."""
    mixed = [e for e in gpus.take() if e.kind.startswith("mix")]
    assert mixed == [], "\n".join(map(str, mixed))


def test_two_threads(gpus: PretendedCuda, expected: list[np.ndarray]) -> None:
    models = [predictor(gpus, device) for device in (FIRST, SECOND)]
    found: dict[int, Any] = {}

    def track(index: int) -> None:
        with gpus.thread():
            found[index] = list(labels(models[index]))

    threads = [threading.Thread(target=track, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert_equal(found[index], expected)
    # Encoder and step of each, on the device of their tensors though the current one is the first.
    assert set(gpus.recorded_on) == {0, 1}
    assert_clean(gpus)


def test_another_plan_while_a_predictor_tracks(
    gpus: PretendedCuda, expected: list[np.ndarray]
) -> None:
    one, two = predictor(gpus, FIRST), predictor(gpus, SECOND)
    first, second = labels(one), labels(two)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for t in range(len(CLIP)):
        if t == 4:
            one.plan = Plan()
        if t == 7:
            one.runner = Runner(Plan(graphs=True), lambda: gpus)
        found[0].append(next(first))
        found[1].append(next(second))
    for each in found:
        assert_equal(each, expected)
    assert_clean(gpus)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_predictors_are_deleted_in_any_order(
    gpus: PretendedCuda, expected: list[np.ndarray], order: tuple[int, int]
) -> None:
    models = {i: predictor(gpus, device) for i, device in enumerate((FIRST, SECOND))}
    for model in models.values():
        assert_equal(list(labels(model)), expected)
    del model
    gone, left = order
    del models[gone]
    gc.collect()
    assert_equal(list(labels(models[left])), expected)
    again = predictor(gpus, (FIRST, SECOND)[gone])
    assert_equal(list(labels(again)), expected)
    assert_clean(gpus)
