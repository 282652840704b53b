"""All four layers of memory attention for one frame: fastsam2's against `sam2`'s module."""

from __future__ import annotations

import pytest
import torch

from bench.kernels.conftest import Measure
from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.memory_pool import Pages
from fastsam2.engine.memory_reader import memory_reader
from fastsam2.engine.read_tables import ReadTables

MEMORIES, POINTERS = 7, 16


def test_memory_attention_module(
    measure: Measure, device: torch.device, dtype: torch.dtype, grid: int, objects: int
) -> None:
    build = pytest.importorskip("sam2.build_sam")
    model = build_sam2_video_predictor("sam2.1-tiny", device=device, dtype=dtype)
    theirs = build.build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device=str(device))
    theirs = theirs.memory_attention.to(dtype)
    tokens, reads = grid * grid, objects * MEMORIES
    pointer_tokens = POINTERS * model.hidden_dim // model.mem_dim

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def ints(x: torch.Tensor) -> torch.Tensor:
        return x.to(device, torch.int32)

    feature, pos = random(1, model.hidden_dim, grid, grid), random(1, model.hidden_dim, grid, grid)
    slots = ints(torch.arange(reads))
    pages = Pages(
        latents=random(reads, tokens, model.mem_dim),
        pos=random(tokens, model.mem_dim),
        pointers=random(objects * POINTERS, model.hidden_dim),
    )
    tables = ReadTables(
        slots=slots,
        times=slots % MEMORIES,
        reads=slots.view(objects, MEMORIES),
        num_reads=ints(torch.full((objects,), MEMORIES)),
        pointer_slots=ints(torch.arange(objects * POINTERS)).view(objects, POINTERS),
        distances=torch.rand(objects, POINTERS, device=device),
        num_pointer_tokens=ints(torch.full((objects,), pointer_tokens)),
    )
    memory = random(MEMORIES * tokens + pointer_tokens, 1, model.mem_dim)

    def ours() -> torch.Tensor:
        read = memory_reader(model)
        assert read is not None
        return read(model, feature, pos, read.rope(feature), pages, tables)

    def sam2() -> None:
        curr = feature.flatten(2).permute(2, 0, 1)
        for _ in range(objects):  # one after another, as its predictor does
            theirs(
                curr=[curr],
                curr_pos=[pos.flatten(2).permute(2, 0, 1)],
                memory=memory,
                memory_pos=memory,
                num_obj_ptr_tokens=pointer_tokens,
            )

    measure({"kernel": ours, "sam2": sam2}, [feature, pages.latents])
