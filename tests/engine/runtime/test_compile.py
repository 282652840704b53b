"""Per-frame functions compile without graph breaks, and once for any memories and objects."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.block_tables import BlockTables, block_tables
from fastsam2.engine.fused.memory_attention import FusedMemoryAttention
from fastsam2.engine.fused.memory_encoder import FusedMemoryEncoder
from fastsam2.engine.memory_pool import MemoryPool, Pages
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.compile import Compiled, CompiledLater
from fastsam2.engine.runtime.runner import Runner
from fastsam2.engine.track_step import track_step
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.memories import features, selection
from tests.reference import randomise_
from tests.support import frames_rgb, relative_error

#: (memories, pointers) of each object: memory grows, objects are added and removed.
HISTORY = [
    [(1, 0)],
    [(2, 1)],
    [(7, 16)],
    [(7, 16), (1, 0)],
    [(3, 2), (7, 16), (9, 4)],
    [(5, 6)],
]


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    model = build_sam2_video_predictor(
        "nano", device="cpu", hydra_overrides_extra=["++model.image_size=128"]
    )
    randomise_(model)
    return model


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def compiles_once(function: Callable[..., Any], calls: Iterator[tuple[Any, ...]]) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = Compiled(function, backend=counter)
    for arguments in calls:
        # Compiled, objects run in one batch; eagerly on a CPU, one after another.
        outs = tree_leaves(compiled(*arguments)), tree_leaves(function(*arguments))
        assert all(relative_error(a, b) <= 1e-5 for a, b in zip(*outs, strict=True))
    assert counter.frame_count == 1


def history(model: SAM2VideoPredictor) -> Iterator[tuple[Pages, BlockTables]]:
    for sizes in HISTORY:
        yield block_tables(model, MemoryPool(model), [selection(model, *size) for size in sizes])


@pytest.mark.slow
def test_memory_attention(model: SAM2VideoPredictor) -> None:
    attention = FusedMemoryAttention.of(model)
    assert attention is not None
    frame = features(model)
    of_frame = frame.pix_feat, frame.pix_pos, attention.rope(frame.pix_feat)
    compiles_once(attention, ((*of_frame, *memory) for memory in history(model)))


def test_memory_encoder(model: SAM2VideoPredictor) -> None:
    encode = FusedMemoryEncoder.of(model)
    assert encode is not None
    frame = features(model)

    def call(masks: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        return encode(frame.pix_feat, masks, presence, is_mask_from_pts=False)

    def calls() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for n in (1, 2, 5, 1):
            masks, presence = torch.randn(n, 1, 32, 32), torch.randn(n, 1)
            for x in (masks, presence):
                torch._dynamo.mark_dynamic(x, 0)
            yield masks, presence

    compiles_once(call, calls())


@pytest.mark.slow
def test_whole_track_step(model: SAM2VideoPredictor) -> None:
    step = track_step(model)
    assert step is not None
    frame = features(model)
    grid = step.grid(frame)
    compiles_once(step, ((frame, grid, *memory) for memory in history(model)))


def test_compilation_in_the_background() -> None:
    """The first calls do not wait for the compiler; later ones compile nothing."""
    begun, goes_on = threading.Event(), threading.Event()

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        begun.set()
        assert goes_on.wait(60)
        return graph

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    def eagerly(x: torch.Tensor) -> torch.Tensor:
        eager.append(len(x))
        return double(x)

    eager: list[int] = []
    counter = CompileCounterWithBackend(backend)
    compiled = Compiled(double, backend=counter)
    later = CompiledLater(eagerly, compiled, compiled, after=2)
    x = torch.arange(3)
    for _ in range(2):
        assert torch.equal(later(x), 2 * x)
    assert not begun.is_set()
    assert torch.equal(later(x), 2 * x)
    assert begun.wait(60)
    assert torch.equal(later(x), 2 * x)
    goes_on.set()
    (thread,) = [t for t in threading.enumerate() if t.name == "fastsam2-compile"]
    thread.join()
    assert torch.equal(later(x + 1), 2 * (x + 1))
    assert eager == [3] * 4
    # Another shape does not wait for the compiler, either.
    assert torch.equal(later(x[:2]), 2 * x[:2])
    assert eager == [3, 3, 3, 3, 2]
    assert counter.frame_count == 1


def test_a_failed_compilation_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no compiler")

    later = CompiledLater(torch.neg, broken, broken, after=0)
    for _ in range(2):
        assert later(torch.ones(1)) == -1
        for thread in threading.enumerate():
            if thread.name == "fastsam2-compile":
                thread.join()
    assert [r.message for r in caplog.records] == ["the image encoder runs uncompiled: no compiler"]


@pytest.mark.slow
def test_a_session_compiles_twice(model: SAM2VideoPredictor) -> None:
    """It compiles the image encoder and the track step, for any number of objects and memories."""
    clip = frames_rgb(12)

    def logits(model: SAM2VideoPredictor) -> list[torch.Tensor]:
        state = model.init_state(clip)
        found = []
        for begin, obj_id in ((0, 1), (4, 2), (7, 3)):
            x, y = 50 + 10 * obj_id, 40 + 8 * obj_id
            model.add_new_points_or_box(state, begin, obj_id, points=[[x, y]], labels=[1])
            found += [r.logits for r in model.propagate(state, begin, 3)]
        return found

    def check(model: SAM2VideoPredictor) -> None:
        found, compiled, model.runner = logits(model), model.runner, Runner(Plan())
        for a, b in zip(found, logits(model), strict=True):
            assert relative_error(a, b) <= 1e-3
        model.runner = compiled

    counter = CompileCounterWithBackend("aot_eager")
    compiled = copy.deepcopy(model)
    compiled.runner = Runner(Plan(compile=True), backend=counter)
    check(compiled)
    assert counter.frame_count == 2
    if Version(torch.__version__) < Version("2.11"):
        return  # these compile the functions of a model with other weights again
    # Other weights are other inputs of the same functions.
    with torch.inference_mode(False):
        randomise_(compiled, seed=1)
    check(compiled)
    check(copy.deepcopy(compiled))
    assert counter.frame_count == 2
