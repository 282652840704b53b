"""Checks of arguments that ops share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["check_tensors"]


def check_tensors(
    device: torch.device, expected: Iterable[tuple[str, Tensor, Sequence[int], torch.dtype]]
) -> None:
    """Check contiguous tensors on `device`, each given as name, tensor, shape and dtype.

    Raises:
        TypeError: a dtype differs.
        ValueError: a shape or device differs, or a tensor is not contiguous.
    """
    for name, tensor, shape, dtype in expected:
        if tensor.shape != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name} must be on {device}, got {tensor.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
