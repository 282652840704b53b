"""Keys of full memories for all four layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.conftest import Measure
from fastsam2_kernels.memory_keys import memory_keys

LAYERS, DIM, WIDTH, MEMORIES = 4, 256, 64, 7


def test_memory_keys(
    measure: Measure, device: torch.device, dtype: torch.dtype, grid: int, objects: int
) -> None:
    position_encoding = pytest.importorskip("sam2.modeling.position_encoding")
    tokens, reads = grid * grid, objects * MEMORIES

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    latents, pos, tpos = random(reads, tokens, WIDTH), random(tokens, WIDTH), random(7, WIDTH)
    weight, bias = random(LAYERS, DIM, WIDTH), random(LAYERS, DIM)
    cos, sin = torch.randn(2, tokens, DIM // 2, device=device)
    slots = torch.arange(reads, dtype=torch.int32, device=device)
    times = slots % MEMORIES
    arguments = (latents, pos, tpos, weight, bias, cos, sin, slots, times)
    turn = torch.polar(torch.ones_like(cos), cos)
    compiled = torch.compile(memory_keys)

    def sam2() -> torch.Tensor:
        memory = (latents + pos + tpos[times.long(), None]).view(objects, 1, -1, WIDTH)
        for layer in range(LAYERS):
            k = F.linear(memory, weight[layer], bias[layer])
            # It turns queries too; one is the least it takes.
            _, k = position_encoding.apply_rotary_enc(
                k[:, :, :tokens], k, freqs_cis=turn, repeat_freqs_k=True
            )
        return k

    measure(
        {
            "kernel": lambda: memory_keys(*arguments),
            "reference": lambda: memory_keys(*arguments, impl="reference"),
            "compiled": lambda: compiled(*arguments, impl="reference"),
            "sam2": sam2,
        },
        [latents, weight, cos, sin],
    )
