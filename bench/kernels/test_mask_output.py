"""Masks of a Full HD video from logits; `sam2` makes bool masks, here they are packed too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.conftest import Measure
from fastsam2_kernels.mask_output import mask_output

SIZE = (1080, 1920)


@pytest.mark.parametrize("form", ["bool", "bits", "rle"])
def test_mask_output(
    measure: Measure, device: torch.device, grid: int, objects: int, form: str
) -> None:
    coarse = torch.randn(objects, 1, 6, 6, device=device)
    logits = F.interpolate(coarse, (4 * grid, 4 * grid), mode="bicubic")[:, 0]
    compiled = torch.compile(mask_output)

    def sam2() -> torch.Tensor:
        up = F.interpolate(logits[:, None], SIZE, mode="bilinear", align_corners=False)
        return up > 0

    functions = {
        "kernel": lambda: mask_output(logits, SIZE, format=form),  # type: ignore[call-overload]
        "reference": lambda: mask_output(  # type: ignore[call-overload]
            logits, SIZE, format=form, impl="reference"
        ),
    }
    if form == "bool":
        functions["compiled"] = lambda: compiled(logits, SIZE, impl="reference")
        functions["sam2"] = sam2
    measure(functions, [logits])
