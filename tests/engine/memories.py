"""Random frames and memories of objects."""

from __future__ import annotations

import torch

from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.types import FrameOutput


def features(model: SAM2Base) -> FrameFeatures:
    """Return random features of one frame."""
    grid, dim = model.sam_image_embedding_size, model.hidden_dim
    x = torch.randn(1, dim, grid, grid)
    high_res = [torch.randn(1, dim // 8, 4 * grid, 4 * grid)]
    high_res.append(torch.randn(1, dim // 4, 2 * grid, 2 * grid))
    return FrameFeatures(x, torch.randn_like(x), high_res)


def selection(model: SAM2Base, frames: int, pointers: int) -> MemorySelection:
    """Select random memories for one object: one conditioning frame, others, and pointers."""
    grid = model.sam_image_embedding_size
    pos = model.memory_encoder.position_encoding(torch.zeros(1, 1, grid, grid))

    def output() -> FrameOutput:
        memory = torch.randn(1, model.mem_dim, grid, grid)
        nothing = torch.zeros(0)
        return FrameOutput(memory.bfloat16(), [pos], nothing, nothing, nothing)

    read = [(t if t < frames - 1 else 0, output()) for t in range(1, frames + 1)]
    return MemorySelection(
        frames=read,
        pointers=[(t, torch.randn(1, model.hidden_dim)) for t in range(pointers)],
        pointer_span=15,
    )
