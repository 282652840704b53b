"""CUDA graphs keep their memory to themselves, on their own device, after failures too."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from fastsam2.engine.runtime import streams
from fastsam2.engine.runtime.cuda_graphs import CudaRecorder
from tests.engine.runtime.fake_cuda import FakeCuda


@pytest.fixture(params=[True, False], ids=["2.13", "2.11"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    streams.side_stream.cache_clear()
    yield FakeCuda(clears=request.param).install(monkeypatch)
    streams.side_stream.cache_clear()


def test_each_device_captures_its_own_graphs(cuda: FakeCuda) -> None:
    for index in (0, 1, 0):
        with torch.cuda.device(f"cuda:{index}"):
            CudaRecorder().record(lambda: None)
    assert [device.index for device in cuda.captured_on] == [0, 1, 0]


def test_recorders_share_no_workspace(cuda: FakeCuda) -> None:
    """The encoder's graphs run while those of the step do."""
    recorders = CudaRecorder(), CudaRecorder()
    kept = [recorder.record(cuda.matmul) for recorder in recorders for _ in range(2)]
    first, second = cuda.used.values()
    assert not {id(x) for x in first} & {id(x) for x in second}
    for pool, spaces in cuda.used.items():
        assert {space.pool for space in spaces} == {pool}
    assert len(kept) == 4


def test_a_model_outlives_another(cuda: FakeCuda) -> None:
    """The memory that the graphs of one model use is not freed with another model."""
    one, two = CudaRecorder(), CudaRecorder()
    graph, other = one.record(cuda.matmul), two.record(cuda.matmul)
    (_, spaces) = cuda.used.values()
    del graph, one
    gc.collect()
    cuda.empty_cache()
    assert all(space.allocated for space in spaces)
    cuda.matmul()
    del other


def test_records_again_after_its_last_graph_is_gone(cuda: FakeCuda) -> None:
    recorder = CudaRecorder()

    def elsewhere() -> None:
        graph = recorder.record(cuda.matmul)
        del graph

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    gc.collect()
    replay, _ = recorder.record(cuda.matmul)
    replay()


def test_a_failed_capture_restores_the_stream(cuda: FakeCuda) -> None:
    before = torch.cuda.current_stream()
    cuda.fails = True
    with pytest.raises(RuntimeError, match="previous error during capture"):
        CudaRecorder().record(cuda.matmul)
    assert torch.cuda.current_stream() is before
    # Nothing but the failed graph's pool has seen its workspace.
    assert cuda.workspaces == {}
