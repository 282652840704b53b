"""Labels and areas of the components of a mask; `sam2` needs its compiled extension for it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from bench.kernels.conftest import Measure
from fastsam2_kernels.connected_components import connected_components


def test_connected_components(
    measure: Measure, device: torch.device, grid: int, objects: int
) -> None:
    coarse = torch.randn(objects, 1, 24, 24, device=device)
    mask = F.interpolate(coarse, (4 * grid, 4 * grid), mode="bicubic") > 0

    def scipy() -> None:
        for image in mask[:, 0].cpu().numpy():
            labels, n = ndimage.label(image, np.ones((3, 3)))
            np.bincount(labels.ravel(), minlength=n + 1)[labels]

    measure(
        {
            "kernel": lambda: connected_components(mask),
            "reference": lambda: connected_components(mask, impl="reference"),
            "sam2": scipy,  # what stands in for the extension on a CPU
        },
        [mask],
    )
