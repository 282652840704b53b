"""FLOP formulas of the ops against PyTorch's count of their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastsam2_kernels.cx_block import cx_block
from fastsam2_kernels.mask_downsample import (
    DownsampleStage,
    MaskDownsampleWeights,
    mask_downsample,
)
from fastsam2_kernels.memory_attention import PagedMemory, memory_attention
from fastsam2_kernels.memory_keys import memory_keys
from fastsam2_kernels.rope_attention import rope_attention

TOKENS, DIM, WIDTH = 16, 128, 64


def _ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def memory_attention_call(impl: str) -> Any:
    n, k, p = 2, 3, 5
    reads = torch.arange(n * k, dtype=torch.int32).view(n, k)
    memory = PagedMemory(
        torch.randn(n * k, TOKENS, DIM),
        torch.randn(n * k, TOKENS, WIDTH),
        reads,
        reads,
        _ints(k, k),
        torch.randn(n, p, DIM),
        torch.randn(n, p, WIDTH),
        _ints(p, p),
    )
    q, (cos, sin) = torch.randn(n, TOKENS, DIM), torch.randn(2, TOKENS, DIM // 2)
    return memory_attention(q, memory, cos, sin, DIM**-0.5, impl=impl)  # type: ignore[arg-type]


def memory_keys_call(impl: str) -> Any:
    layers, slots = 3, 4
    return memory_keys(
        torch.randn(slots, TOKENS, WIDTH),
        torch.randn(TOKENS, WIDTH),
        torch.randn(7, WIDTH),
        torch.randn(layers, DIM, WIDTH),
        torch.randn(layers, DIM),
        *torch.randn(2, TOKENS, DIM // 2),
        torch.arange(slots, dtype=torch.int32),
        torch.zeros(slots, dtype=torch.int32),
        impl=impl,  # type: ignore[arg-type]
    )


def rope_attention_call(impl: str) -> Any:
    q, k, v = torch.randn(3, 2, TOKENS, DIM)
    cos, sin = torch.randn(2, TOKENS, DIM // 2)
    return rope_attention(q, k, v, cos, sin, DIM**-0.5, impl=impl)  # type: ignore[arg-type]


def cx_block_call(impl: str) -> Any:
    c = DIM
    shapes = [(4 * c, c), (4 * c,), (c, 4 * c), (c,)]
    parameters = [torch.randn(c, 7, 7), *torch.randn(3, c)]
    x = torch.randn(2, 5, 6, c)
    last = [torch.randn(shape) for shape in shapes]
    return cx_block(x, *parameters, 1e-6, *last, impl=impl)  # type: ignore[arg-type]


def mask_downsample_call(impl: str) -> Any:
    stages, c = [], 1
    for _ in range(3):
        stages.append(DownsampleStage(torch.randn(4 * c, c, 3, 3), *torch.randn(3, 4 * c)))
        c *= 4
    weights = MaskDownsampleWeights(tuple(stages), torch.randn(9, c, 1, 1), torch.randn(9))
    logits = torch.randn(2, 6, 5)
    return mask_downsample(logits, 20.0, -10.0, weights, impl=impl)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        memory_attention_call,
        memory_keys_call,
        rope_attention_call,
        cx_block_call,
        mask_downsample_call,
    ],
)
def test_formula_equals_the_count_of_the_reference(call: Callable[[str], Any]) -> None:
    counts = {}
    for impl in ("auto", "reference"):
        # PyTorch does not count its fused attention on the CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call(impl)
        counts[impl] = counter.get_total_flops()
    assert counts["auto"] == counts["reference"] > 0
