"""One ConvNeXt block of the memory encoder's fuser."""

from __future__ import annotations

import pytest
import torch

from bench.kernels.conftest import Measure
from fastsam2_kernels.cx_block import cx_block

DIM = 256


def test_cx_block(
    measure: Measure, device: torch.device, dtype: torch.dtype, grid: int, objects: int
) -> None:
    encoder = pytest.importorskip("sam2.modeling.memory_encoder")
    block = encoder.CXBlock(DIM, kernel_size=7, padding=3).to(device, dtype).eval()
    weight = block.dwconv.weight.data[:, 0].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    parameters = [weight, block.dwconv.bias, block.norm.weight, block.norm.bias]
    linear = [
        block.pwconv1.weight,
        block.pwconv1.bias,
        block.gamma[:, None] * block.pwconv2.weight,
        block.gamma * block.pwconv2.bias,
    ]
    arguments = (*(p.data for p in parameters), block.norm.eps, *(p.data for p in linear))
    image = torch.randn(objects, DIM, grid, grid, device=device).to(dtype)
    x = image.permute(0, 2, 3, 1).contiguous()
    compiled = torch.compile(cx_block)
    measure(
        {
            "kernel": lambda: cx_block(x, *arguments),
            "reference": lambda: cx_block(x, *arguments, impl="reference"),
            "compiled": lambda: compiled(x, *arguments, impl="reference"),
            "sam2": lambda: block(image),
        },
        [x, *linear],
    )
