"""From mask logits at a quarter of the image's size to features of the mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.conftest import Measure
from fastsam2_kernels.mask_downsample import (
    DownsampleStage,
    MaskDownsampleWeights,
    mask_downsample,
)

SCALE, BIAS = 20.0, -10.0


def test_mask_downsample(
    measure: Measure, device: torch.device, dtype: torch.dtype, grid: int, objects: int
) -> None:
    encoder = pytest.importorskip("sam2.modeling.memory_encoder")
    module = encoder.MaskDownSampler(kernel_size=3, stride=2, padding=1).to(device, dtype).eval()
    *layers, last = module.encoder
    stages = tuple(
        DownsampleStage(conv.weight.data, conv.bias.data, norm.weight.data, norm.bias.data)
        for conv, norm in zip(layers[::3], layers[1::3], strict=True)
    )
    weights = MaskDownsampleWeights(stages, last.weight.data, last.bias.data)
    logits = torch.randn(objects, 4 * grid, 4 * grid, device=device)
    compiled = torch.compile(mask_downsample)

    def sam2() -> torch.Tensor:
        size = (16 * grid, 16 * grid)
        mask = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)
        out: torch.Tensor = module((mask.sigmoid() * SCALE + BIAS).to(dtype))
        return out

    arguments = (logits, SCALE, BIAS, weights)
    measure(
        {
            "kernel": lambda: mask_downsample(*arguments),
            "reference": lambda: mask_downsample(*arguments, impl="reference"),
            "compiled": lambda: compiled(*arguments, impl="reference"),
            "sam2": sam2,
        },
        [logits],
    )
