"""Cross-attention of all objects to full memories; in `sam2`, values are as wide as keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.kernels.conftest import Measure
from fastsam2_kernels.memory_attention import memory_attention

DIM, WIDTH, MEMORIES, POINTERS = 256, 64, 7, 64


def test_memory_attention(
    measure: Measure, device: torch.device, dtype: torch.dtype, grid: int, objects: int
) -> None:
    tokens, reads = grid * grid, objects * MEMORIES

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def full(n: int) -> torch.Tensor:
        return torch.full((objects,), n, dtype=torch.int32, device=device)

    q, keys = random(objects, tokens, DIM), random(reads, tokens, DIM)
    latents = random(reads, tokens, WIDTH)
    slots = torch.arange(reads, dtype=torch.int32, device=device).view(objects, MEMORIES)
    pointer_keys = random(objects, POINTERS, DIM)
    pointers = random(objects, POINTERS, WIDTH)
    cos, sin = torch.randn(2, tokens, DIM // 2, device=device)
    arguments = (
        q, keys, latents, slots, slots, full(MEMORIES), pointer_keys, pointers, full(POINTERS),
        cos, sin, DIM**-0.5,
    )  # fmt: skip
    k = torch.cat([keys.view(objects, -1, DIM), pointer_keys], dim=1)[:, None]
    v = random(*k.shape)
    compiled = torch.compile(memory_attention)
    measure(
        {
            "kernel": lambda: memory_attention(*arguments),
            "reference": lambda: memory_attention(*arguments, impl="reference"),
            "compiled": lambda: compiled(*arguments, impl="reference"),
            "sam2": lambda: F.scaled_dot_product_attention(q[:, None], k, v),
        },
        [q, keys, latents, pointer_keys, pointers, cos, sin],
    )
