"""One option selects the kernels; a tracked frame is the same with each implementation."""

from __future__ import annotations

import pytest
import torch

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.block_tables import block_tables
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.plan import Plan
from fastsam2.engine.track_step import track_step
from fastsam2_kernels import dispatch
from fastsam2_kernels.dispatch import Impl
from tests.engine.memories import features, selection
from tests.reference import randomise_
from tests.support import relative_error

pytest.importorskip("triton")
from fastsam2_kernels.rope_attention import kernel


@pytest.mark.slow
@torch.inference_mode()
def test_kernels_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    if not dispatch.interpreting():
        pytest.skip("needs Triton's interpreter")
    launched = []
    launch = kernel.launch
    monkeypatch.setattr(kernel, "launch", lambda *args: launched.append(1) or launch(*args))
    with torch.inference_mode(False):
        model = build_sam2_video_predictor(
            "nano", device="cpu", hydra_overrides_extra=["++model.image_size=128"]
        )
        randomise_(model)
    frame = features(model)
    pool = MemoryPool(model, torch.float32)
    slots = pool.latents.allocate(2), pool.pointers.allocate(2)
    reads = [selection(model, 2, 3), selection(model, 1, 1)]
    pages, tables = block_tables(model, pool, reads, writes=slots)
    found = {}
    impls: tuple[Impl, ...] = ("auto", "reference", "triton")
    for impl in impls:
        model.plan = Plan(impl=impl)
        step = track_step(model)
        assert step is not None
        masks = step(frame, step.grid(frame), pages, tables)
        written = torch.cat([slot.copy() for slot in slots[0]]).float()
        found[impl] = (masks.low_res_masks, masks.obj_ptr, written)
        assert bool(launched) == (impl == "triton")
    for impl in ("auto", "triton"):
        for a, b in zip(found[impl], found["reference"], strict=True):
            assert relative_error(a, b) <= 1e-5
