"""Recorded functions return the results of the functions, for arguments at any address."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime import cuda_graphs
from fastsam2.engine.runtime.cuda_graphs import Graphed
from fastsam2.engine.runtime.pytree import StaticInputs
from fastsam2.engine.runtime.runner import Runner
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.runtime.recorder import FakeRecorder
from tests.reference import randomise_
from tests.support import frames_rgb, relative_error

T = TypeVar("T")


@dataclass(frozen=True)
class Table(StaticInputs):
    values: Tensor


def look_up(rows: list[Tensor], table: Table) -> tuple[Tensor, None]:
    return torch.cat([table.values[row] for row in rows]) * 2, None


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_each_shape_is_recorded_once_and_results_are_copies() -> None:
    recorder = FakeRecorder()
    graphed = Graphed(look_up, recorder)
    table = Table(torch.randn(9))
    calls = [[torch.randint(9, (n,)), torch.randint(9, (2,))] for n in (3, 5, 3, 3, 5)]
    found = [graphed(rows, table)[0] for rows in calls]
    for out, rows in zip(found, calls, strict=True):
        assert torch.equal(out, look_up(rows, table)[0])
    assert (recorder.recorded, recorder.replayed, len(graphed)) == (2, 5, 2)


def test_static_inputs_are_read_in_place() -> None:
    recorder = FakeRecorder()
    graphed = Graphed(look_up, recorder)
    table, rows = Table(torch.randn(9)), [torch.arange(9)]
    graphed(rows, table)
    table.values.fill_(3)
    assert graphed(rows, table)[0].tolist() == [6] * 9
    assert recorder.recorded == 1
    # Another tensor needs another recording, even at the same address.
    other = Table(table.values.view(9))
    other.values.fill_(4)
    assert graphed(rows, other)[0].tolist() == [8] * 9
    assert recorder.recorded == 2


@pytest.mark.slow
def test_recordings_are_dropped_with_their_static_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(FakeRecorder):
        """Does not keep the recorded tensors alive, like a CUDA graph."""

        def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
            return (lambda: None), run()

    graphed = Graphed(look_up, Forgetful())
    rows = [torch.arange(9)]
    for _ in range(5):
        graphed(rows, Table(torch.randn(9)))
        gc.collect()
    assert len(graphed) == 1
    monkeypatch.setattr(cuda_graphs, "_KEPT", 3)
    tables = [Table(torch.randn(9)) for _ in range(5)]
    for table in tables:
        graphed(rows, table)
    assert len(graphed) == 3


def test_more_static_inputs_than_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in turns run without a graph instead of recording at each call; a recording that
    nobody uses any more makes room."""
    monkeypatch.setattr(cuda_graphs, "_KEPT", 3)
    monkeypatch.setattr(cuda_graphs, "_IDLE", 20)
    recorder = FakeRecorder()
    graphed, rows = Graphed(look_up, recorder), [torch.arange(9)]
    tables = [Table(torch.randn(9)) for _ in range(5)]
    for _ in range(10):
        for table in tables:
            assert torch.equal(graphed(rows, table)[0], look_up(rows, table)[0])
    assert (recorder.recorded, recorder.replayed) == (3, 30)
    for _ in range(20):
        graphed(rows, tables[-1])
    assert recorder.recorded == 4


def test_other_threads_record_nothing() -> None:
    recorder = FakeRecorder()
    graphed, table = Graphed(look_up, recorder), Table(torch.randn(9))
    with cuda_graphs.replay_only():
        assert torch.equal(graphed([torch.arange(2)], table)[0], table.values[:2] * 2)
    assert recorder.recorded == 0
    graphed([torch.arange(2)], table)
    with cuda_graphs.replay_only() as thread:
        graphed([torch.arange(2)], table)
        assert not thread.missed
        graphed([torch.arange(3)], table)
        assert thread.missed
    assert (recorder.recorded, recorder.replayed) == (1, 2)


def test_steady_calls_are_recorded(caplog: pytest.LogCaptureFixture) -> None:
    cuda_graphs._announce.cache_clear()
    recorder = FakeRecorder()
    graphed, table = Graphed(look_up, recorder, after=3), Table(torch.randn(9))
    with caplog.at_level(logging.INFO):
        for n in (2, 5, 2, 2, 5, 2, 2):
            rows = [torch.randint(9, (n,))]
            assert torch.equal(graphed(rows, table)[0], look_up(rows, table)[0])
        assert (recorder.recorded, recorder.replayed) == (1, 2)
        for _ in range(3):
            graphed([torch.arange(5)], table)
    assert (recorder.recorded, recorder.replayed) == (2, 4)
    (record,) = caplog.records
    assert 'plan="eager"' in record.message


def test_recording_waits_for_other_work_that_may_synchronize() -> None:
    recorder = FakeRecorder()
    graphed, table = Graphed(look_up, recorder), Table(torch.randn(9))
    for held in (True, False):
        with cuda_graphs.DEVICE_LOCK if held else contextlib.nullcontext():
            rows = [torch.arange(2)]
            assert torch.equal(graphed(rows, table)[0], look_up(rows, table)[0])
        assert recorder.recorded == (not held)


def test_unrecordable_function_runs_without_a_graph(
    caplog: pytest.LogCaptureFixture, no_fallback: Callable[[], None]
) -> None:
    class Unable:
        def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
            raise RuntimeError("operation not permitted when stream is capturing\nat ...")

    graphed = Graphed(look_up, Unable())
    table = Table(torch.randn(9))
    with pytest.raises(RuntimeError, match="not permitted"):  # in all other tests
        Graphed(look_up, Unable())([torch.arange(2)], table)
    no_fallback()
    before = cuda_graphs.fallbacks
    with caplog.at_level(logging.WARNING):
        for n in (2, 3):
            rows = [torch.arange(n)]
            assert torch.equal(graphed(rows, table)[0], look_up(rows, table)[0])
    assert cuda_graphs.fallbacks == before + 1
    (record,) = caplog.records
    assert record.message.endswith("operation not permitted when stream is capturing")


def test_out_of_memory_is_raised() -> None:
    class Full:
        def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
            raise torch.OutOfMemoryError("full")

    graphed = Graphed(look_up, Full())
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            graphed([torch.arange(2)], Table(torch.randn(9)))


def test_graphs_nobody_asked_for_need_no_memory(no_fallback: Callable[[], None]) -> None:
    class Full:
        def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
            raise torch.OutOfMemoryError("full")

    no_fallback()
    graphed, rows, table = (
        Graphed(look_up, Full(), after=1),
        [torch.arange(2)],
        Table(torch.ones(9)),
    )
    for _ in range(3):
        assert torch.equal(graphed(rows, table)[0], look_up(rows, table)[0])


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    with torch.inference_mode(False):
        model = build_sam2_video_predictor(
            "nano",
            device="cpu",
            hydra_overrides_extra=["++model.image_size=128"],
            # In bfloat16 the last bit of a product can become one of 8 bits of a memory.
            memory_dtype=torch.float32,
        )
        randomise_(model)
    return model


@pytest.mark.slow
def test_a_recorded_session(model: SAM2VideoPredictor) -> None:
    """Numbers of objects and memories change; sizes of the block tables are rounded up."""
    clip = frames_rgb(24)

    def track() -> Iterator[Any]:
        state = model.init_state(clip, history="window")
        for begin, obj_id in ((0, 1), (6, 2), (12, 3)):
            point = [[50 + 10 * obj_id, 40 + 8 * obj_id]]
            model.add_new_points_or_box(state, begin, obj_id, points=point, labels=[1])
            yield from model.propagate(state, begin, 5)
        model.remove_object(state, 1)
        yield from model.propagate(state, 18, 5)

    expected = list(track())
    recorders: list[FakeRecorder] = []

    def recorder() -> FakeRecorder:
        recorders.append(FakeRecorder())
        return recorders[-1]

    model.runner = Runner(Plan(graphs=True), recorder)
    for _ in range(3):
        for out, known in zip(track(), expected, strict=True):
            assert out.obj_ids == known.obj_ids
            for name in ("low_res_masks", "object_score_logits", "predicted_iou"):
                assert relative_error(getattr(out, name), getattr(known, name)) <= 1e-4
    encoder, step = recorders
    assert encoder.recorded == 1
    # For 1, 2 and 3 objects in the first video, and again for 1 and 2 on pages for 3.
    assert step.recorded == 5
    assert step.replayed == encoder.replayed - 3  # nothing is tracked on the first frame
    model.plan = Plan()


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_steady_frames_of_a_session(model: SAM2VideoPredictor, autocast: bool) -> None:
    """A program without a plan is recorded in the dtype that it computes in."""
    clip = frames_rgb(14)

    def track() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            state = model.init_state(clip)
            model.add_new_points_or_box(state, 0, 1, points=[[50, 40]], labels=[1])
            return [result.low_res_masks for result in model.propagate(state)]

    model.plan = Plan()
    expected = track()
    recorders: list[FakeRecorder] = []

    def recorder() -> FakeRecorder:
        recorders.append(FakeRecorder())
        return recorders[-1]

    model.runner = Runner(Plan(graphs="steady"), recorder)
    for found, known in zip(track(), expected, strict=True):
        assert relative_error(found.float(), known.float()) <= (1e-2 if autocast else 1e-4)
    assert sorted(r.recorded for r in recorders if r.recorded) == [1, 1]
    model.plan = Plan()
