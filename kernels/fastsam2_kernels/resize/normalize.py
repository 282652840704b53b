"""Normalisation of bytes by a look-up: a value depends on one byte and its channel only.

So one table of 3 x 256 numbers is exact on every device and in every dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["normalization_table", "normalize"]


def normalization_table(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return `(byte / 255 - mean) / std` in float32, rounded to `dtype`, `[3, 256]`; cached."""
    return _table(tuple(mean), tuple(std), dtype, device)


@functools.lru_cache(maxsize=64)
# Not an inference tensor: the table is also used outside inference mode.
@torch.inference_mode(False)
def _table(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    unit = torch.from_numpy(np.arange(256) / 255.0).to(torch.float32)
    shift, scale = (torch.tensor(x, dtype=torch.float32)[:, None] for x in (mean, std))
    return ((unit - shift) / scale).to(device, dtype)


def normalize(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Normalise uint8 `[B, H, W, 3]` to `[B, 3, H, W]` of a float dtype of 16 or 32 bits."""
    table = normalization_table(mean, std, dtype, images.device)
    if images.device.type == "cpu":
        return _look_up_cpu(images, table)
    return _look_up(images, table)


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    channels = images.movedim(-1, 0)
    planes = table.gather(1, channels.to(torch.int64).flatten(1))
    return planes.view(channels.shape).transpose(0, 1).contiguous()


def _look_up_cpu(images: Tensor, table: Tensor) -> Tensor:
    """`np.take` is several times faster than indexing in PyTorch; NumPy has no bfloat16."""
    out = table.new_empty(images.shape[0], 3, *images.shape[1:3])
    integer = torch.int32 if table.dtype == torch.float32 else torch.int16
    values, planes, pixels = table.view(integer).numpy(), out.view(integer).numpy(), images.numpy()
    for channel in range(3):
        np.take(values[channel], pixels[..., channel], out=planes[:, channel], mode="clip")
    return out
