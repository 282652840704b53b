"""After a warm-up no frame waits for a compiler or a recording."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from fastsam2 import SAM2VideoPredictor
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.errors import InputError
from tests.engine.runtime.recorder import FakeRecorder
from tests.predictors.nano import nano_predictor
from tests.support import frames_rgb

SIZE = 96, 128


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    return nano_predictor(image_size=128)


def track(model: SAM2VideoPredictor) -> None:
    """Track 1 to 3 objects, with memories that fill up and frames in a random order."""
    state = model.init_state(frames_rgb(12, height=SIZE[0], width=SIZE[1]))
    for begin, obj_id in ((0, 1), (4, 2), (7, 3)):
        box = [20 + 5 * obj_id, 30, 70, 80]
        model.add_new_points_or_box(state, begin, obj_id, box=box)
        for result in model.propagate(state, begin, 3):
            result.to_host()
    model.add_new_points_or_box(state, 9, 2, points=[[40, 40]], labels=[0])
    for _ in model.propagate(state, 9, reverse=True):
        pass


@pytest.mark.slow
def test_nothing_is_compiled_after_it(model: SAM2VideoPredictor) -> None:
    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = copy.deepcopy(model)
    compiled.runner = Runner(Plan(compile=True, encoder_batch=2), backend=counter)
    compiled.warmup(3, SIZE)
    known = counter.frame_count
    assert known == 3  # the step, and the encoder for one image and for two
    track(compiled)
    assert counter.frame_count == known
    assert not counters["graph_break"]


@pytest.mark.slow
def test_nothing_is_recorded_after_it(model: SAM2VideoPredictor) -> None:
    recorders: list[FakeRecorder] = []

    def recorder() -> FakeRecorder:
        recorders.append(FakeRecorder())
        return recorders[-1]

    recorded = copy.deepcopy(model)
    recorded.runner = Runner(Plan(graphs=True, encoder_batch=2), recorder)
    recorded.warmup(3, SIZE)
    known = [x.recorded for x in recorders]
    assert sorted(known) == [2, 3]  # the encoder for 1 and 2 images; the step for 1 to 3 objects
    replayed = [x.replayed for x in recorders]
    track(recorded)
    assert [x.recorded for x in recorders] == known
    assert all(x.replayed > n for x, n in zip(recorders, replayed, strict=True))


def test_progress_is_reported(model: SAM2VideoPredictor) -> None:
    seen: list[Any] = []

    def progress(counts: Iterable[int], desc: str) -> Iterator[int]:
        for n in counts:
            yield n
            seen.append((desc, n))

    model.warmup(2, SIZE, progress)
    assert seen == [("warm-up", 2), ("warm-up", 1)]


@pytest.mark.parametrize(("n", "size"), [(0, SIZE), (1, (0, 5))])
def test_invalid_numbers(model: SAM2VideoPredictor, n: int, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"{n} and \({size[0]}, {size[1]}\)"):
        model.warmup(n, size)
