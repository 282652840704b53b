"""Resize on a CPU: Pillow itself, whose passes are vectorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from fastsam2_kernels.resize.normalize import normalize

__all__ = ["resize_cpu"]


def resize_cpu(
    images: Tensor,
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """Compute the same as `resize_reference`."""
    resized = np.empty((len(images), height, width, 3), np.uint8)
    for target, image in zip(resized, images.numpy(), strict=True):
        target[:] = np.asarray(Image.fromarray(image).resize((width, height), Resampling.BICUBIC))
    return normalize(torch.from_numpy(resized), mean, std, dtype)
