"""Parts of the engine with compiled kernels in place of the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastsam2 import SAM2VideoPredictor
from fastsam2.engine.block_tables import block_tables
from fastsam2.engine.fused.memory_attention import FusedMemoryAttention
from fastsam2.engine.fused.memory_encoder import FusedMemoryEncoder
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.plan import Plan
from fastsam2.engine.track_step import track_step
from fastsam2_kernels.dispatch import Impl
from tests.emulator.driver import Driver
from tests.engine.memories import features, selection
from tests.predictors.nano import nano_predictor
from tests.support import relative_error

pytestmark = pytest.mark.slow


@torch.inference_mode()
def compare(run: Callable[[SAM2VideoPredictor], list[Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return results of the compiled kernels beside those of the reference, in float32."""
    found = {}
    impls: tuple[Impl, ...] = ("triton", "reference")
    for impl in impls:
        torch.manual_seed(0)
        with torch.inference_mode(False):
            model = nano_predictor()
        model.plan = Plan(impl=impl)
        found[impl] = run(model)
    pairs = list(zip(found["triton"], found["reference"], strict=True))
    for a, b in pairs:
        assert relative_error(a, b) <= 1e-5
    return pairs


def memories(model: SAM2VideoPredictor) -> tuple:
    """Return the memory of two objects: three frames and pointers, and one of each."""
    pool = MemoryPool(model, torch.float32)
    slots = pool.latents.allocate(2), pool.pointers.allocate(2)
    reads = [selection(model, 3, 3), selection(model, 1, 1)]
    return slots, *block_tables(model, pool, reads, writes=slots)


def test_track_step(gpu: Driver) -> None:
    """One frame of nano at 128 px: masks are equal, and so is the memory that it writes."""

    def run(model: SAM2VideoPredictor) -> list[Tensor]:
        frame = features(model)
        slots, pages, tables = memories(model)
        step = track_step(model)
        assert step is not None
        masks = step(frame, step.grid(frame), pages, tables)
        written = torch.cat([slot.copy() for slot in slots[0]]).float()
        return [masks.low_res_masks, masks.obj_ptr, written]

    (out, expected), *_ = compare(run)
    assert torch.equal(out > 0, expected > 0)
    assert 0 < (out > 0).sum() < out.numel()
    assert len({*gpu.launches}) >= 6


def test_memory_attention(gpu: Driver) -> None:
    def run(model: SAM2VideoPredictor) -> list[Tensor]:
        frame = features(model)
        _, pages, tables = memories(model)
        attention = FusedMemoryAttention.of(model)
        assert attention is not None
        rope = attention.rope(frame.pix_feat)
        return [attention(frame.pix_feat, frame.pix_pos, rope, pages, tables)]

    compare(run)
    assert {"memory_attention_kernel", "memory_keys_kernel"} <= {*gpu.launches}


def test_memory_encoder(gpu: Driver) -> None:
    def run(model: SAM2VideoPredictor) -> list[Tensor]:
        encode = FusedMemoryEncoder.of(model)
        assert encode is not None
        masks = 4 * torch.randn(3, 1, 32, 32)
        presence = torch.tensor([[3.0], [-2.0], [0.5]])
        return [encode(features(model).pix_feat, masks, presence, is_mask_from_pts=True)]

    compare(run)
    assert "mask_downsample_kernel" in gpu.launches
