"""Pillow's bicubic resize and normalisation in plain PyTorch: the specification.

Pillow resizes bytes in fixed-point arithmetic, one axis after the other. Weights are rounded to 22
fractional bits, and each pass rounds to bytes, so that the order of the axes matters.

Source: `ImagingResampleInner` of Pillow (`src/libImaging/Resample.c`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import torch
from torch import Tensor

from fastsam2_kernels.resize.normalize import normalize

__all__ = ["FRACTION_BITS", "Taps", "axis_order", "resize_bytes", "resize_reference", "taps_of"]

FRACTION_BITS = 22  #: of a weight
_SUPPORT = 2  # radius of the bicubic filter
_CHOOSES_ORDER = int(PIL.__version__.split(".")[0]) >= 13


class Taps(NamedTuple):
    """Sources of the pixels of one axis: `first[o] + k` with the weight `weights[k, o]`."""

    first: Tensor  #: int32 `[n_out]`
    weights: Tensor  #: int32 `[K, n_out]`, in units of 2^-22; 0 for sources beyond the image


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached for all modes
def taps_of(n_in: int, n_out: int, device: torch.device) -> Taps:
    """Return the sources and weights of an axis of `n_in` pixels resized to `n_out`; cached."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    center = (np.arange(n_out) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    count = np.minimum((center + support + 0.5).astype(np.int64), n_in) - first
    tap = np.arange(2 * math.ceil(support) + 1)[:, None]
    weights = np.where(tap < count, _bicubic((tap + first - center + 0.5) * (1 / stretch)), 0.0)
    # Added in Pillow's order: a pairwise sum is rounded differently.
    weights /= functools.reduce(np.add, weights)
    fixed = np.trunc(weights * 2**FRACTION_BITS + np.copysign(0.5, weights))
    return Taps(*(torch.from_numpy(x.astype(np.int32)).to(device) for x in (first, fixed)))


def _bicubic(x: npt.NDArray[np.float64], a: float = -0.5) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def axis_order(size: tuple[int, int], out: tuple[int, int]) -> tuple[int, int]:
    """Return the axes (0 for height, 1 for width) in the order of the installed Pillow.

    From version 13 on, height comes first if it shrinks by more than twice as many pixels as width.
    """
    shrinks = [a - b for a, b in zip(size, out, strict=True)]
    height_first = _CHOOSES_ORDER and shrinks[0] > max(0, 2 * shrinks[1])
    return (0, 1) if height_first else (1, 0)


def resize_bytes(images: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 `[B, H, W, 3]` to uint8 `[B, height, width, 3]`."""
    size = height, width
    for axis in axis_order((images.shape[1], images.shape[2]), size):
        images = _resize_axis(images, 1 + axis, size[axis])
    return images


def _resize_axis(images: Tensor, axis: int, n_out: int) -> Tensor:
    n_in = images.shape[axis]
    first, weights = taps_of(n_in, n_out, images.device)
    total = torch.tensor(1 << (FRACTION_BITS - 1), dtype=torch.int32, device=images.device)
    for k, weight in enumerate(weights):
        source = images.index_select(axis, (first + k).clamp(max=n_in - 1))
        total = total + source.int() * weight.view(-1, *[1] * (images.ndim - axis - 1))
    return (total >> FRACTION_BITS).clamp(0, 255).to(torch.uint8)


def resize_reference(
    images: Tensor,
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """Resize and normalise uint8 `[B, H, W, 3]` to `[B, 3, height, width]`."""
    return normalize(resize_bytes(images, height, width), mean, std, dtype)
