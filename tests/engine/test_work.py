"""How much less is computed than in `sam2`, counted on tensors without data."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.memory_reader import memory_reader
from fastsam2.engine.read_tables import read_tables
from tests import reference
from tests.engine.memories import features, selection


def test_memory_attention_at_full_memory() -> None:
    """7 memories and 16 pointers at 1024 px: at most 0.70 of the work of `sam2`."""
    ref = reference.video_predictor("sam2.1-tiny", 1024).to("meta")
    tokens, dim, memory = 64 * 64, 256, 7 * 64 * 64 + 16 * 4
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as theirs:
        ref.memory_attention(
            curr=[torch.randn(tokens, 1, dim)],
            curr_pos=[torch.randn(tokens, 1, dim)],
            memory=torch.randn(memory, 1, 64),
            memory_pos=torch.randn(memory, 1, 64),
            num_obj_ptr_tokens=16 * 4,
        )
    # What is known of it by arithmetic: 605.5 GFLOP.
    assert abs(theirs.get_total_flops() / 605.5e9 - 1) < 0.01

    model = build_sam2_video_predictor("sam2.1-tiny", device="cpu").to("meta")
    with torch.device("meta"), torch.inference_mode():
        read, frame = memory_reader(model), features(model)
        assert read is not None
        tables = read_tables(model, MemoryPool(model), [selection(model, 7, 16)])
        rope = read.rope(frame.pix_feat)
        with FlopCounterMode(display=False) as ours:
            read(frame.pix_feat, frame.pix_pos, rope, tables)
    assert ours.get_total_flops() <= 0.70 * theirs.get_total_flops()
