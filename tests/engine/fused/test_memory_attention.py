"""The folded, batched memory attention equals the module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastsam2.engine.block_tables import block_tables
from fastsam2.engine.fused import cpu_tiling, memory_attention
from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.engine.fused.memory_attention import FusedMemoryAttention
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from fastsam2_kernels import memory_keys as kernels
from fastsam2_kernels.dispatch import Impl
from tests.engine.memories import features, selection
from tests.support import relative_error

pytestmark = pytest.mark.usefixtures("inference")


def by_module(model: SAM2VideoPredictor, frame: FrameFeatures, read: MemorySelection) -> Tensor:
    tokens = [x.flatten(2).permute(2, 0, 1) for x in (frame.pix_feat, frame.pix_pos)]
    return model._attend_to_memory(*tokens, read).permute(1, 2, 0).view(frame.pix_feat.shape)


def fused(model: SAM2VideoPredictor, frame: FrameFeatures, reads: list[MemorySelection]) -> Tensor:
    attention = FusedMemoryAttention.of(model)
    assert attention is not None
    memory = block_tables(model, MemoryPool(model), reads)
    rope = attention.rope(frame.pix_feat)
    return attention(frame.pix_feat, frame.pix_pos, rope, *memory)


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_equals_the_module_for_objects_with_different_memories(
    model: SAM2VideoPredictor, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = features(model)
    monkeypatch.setattr(cpu_tiling, "_TOKENS", at_a_time * frame.pix_feat.shape[-2:].numel())
    reads = [selection(model, *sizes) for sizes in ((1, 0), (7, 16), (3, 5))]
    out = fused(model, frame, reads)
    expected = torch.cat([by_module(model, frame, read) for read in reads])
    assert relative_error(out, expected) <= 1e-5
    # An object's result does not depend on the batch.
    assert relative_error(fused(model, frame, reads[1:2]), expected[1:2]) <= 1e-5


@pytest.mark.parametrize("limit", [1 << 30, 1000])
def test_large_keys_are_made_one_layer_at_a_time(
    model: SAM2VideoPredictor, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, reads = features(model), [selection(model, 2, 3)]
    expected = fused(model, frame, reads)
    made = []

    def memory_keys(*args: Tensor, impl: Impl) -> Tensor:
        made.append(kernels.memory_keys(*args, impl=impl))
        return made[-1]

    monkeypatch.setattr(memory_attention, "in_pieces", lambda _: False)
    monkeypatch.setattr(memory_attention, "memory_keys", memory_keys)
    monkeypatch.setattr(memory_attention, "_KEYS_BYTES", limit)
    assert torch.equal(fused(model, frame, reads), expected)
    assert len(made) == (len(model.memory_attention.layers) if limit == 1000 else 1)


def test_unusual_configuration(model: SAM2VideoPredictor) -> None:
    model.memory_attention.layers[0].pos_enc_at_attn = True  # type: ignore[union-attr]
    assert FusedMemoryAttention.of(model) is None
