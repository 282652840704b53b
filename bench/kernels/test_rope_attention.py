"""Self-attention of a frame; after the first layer there is one for each object."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.conftest import Measure
from fastsam2_kernels.rope_attention import rope_attention

DIM = 256


def test_rope_attention(
    measure: Measure, device: torch.device, dtype: torch.dtype, grid: int, objects: int
) -> None:
    position_encoding = pytest.importorskip("sam2.modeling.position_encoding")
    tokens = grid * grid
    q, k, v = torch.randn(3, objects, tokens, DIM, device=device).to(dtype)
    cos, sin = torch.randn(2, tokens, DIM // 2, device=device)
    turn = torch.polar(torch.ones_like(cos), cos)
    compiled = torch.compile(rope_attention)

    def sam2() -> torch.Tensor:
        turned = position_encoding.apply_rotary_enc(q[:, None], k[:, None], freqs_cis=turn)
        return F.scaled_dot_product_attention(*turned, v[:, None])

    arguments = (q, k, v, cos, sin, DIM**-0.5)
    measure(
        {
            "kernel": lambda: rope_attention(*arguments),
            "reference": lambda: rope_attention(*arguments, impl="reference"),
            "compiled": lambda: compiled(*arguments, impl="reference"),
            "sam2": sam2,
        },
        [q, k, v, cos, sin],
    )
