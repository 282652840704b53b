"""The public function: validation and choice of implementation."""

from __future__ import annotations

from typing import Literal

import torch

from fastsam2_kernels.connected_components.reference import connected_components_reference

__all__ = ["Impl", "connected_components"]

Impl = Literal["auto", "reference"]


def connected_components(
    mask: torch.Tensor,
    *,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Label the 8-connected components of each image.

    Args:
        mask: [..., H, W] bool or integer (non-zero is foreground); [N, 1, H, W] in `sam2`.
        impl: "auto" takes the fastest implementation that runs on the mask's device.

    Returns:
        labels: like `mask`, int32: 0 in the background, 1..K in each image, numbered by the
            first pixel of the component in raster order.
        areas: like `mask`, int32: pixels in the component of each foreground pixel, else 0.

    Raises:
        TypeError: `mask` is a floating-point or complex tensor.
        ValueError: `mask` has fewer than two dimensions, or `impl` is unknown.

    Source: `get_connected_componnets` of the CUDA extension of `sam2`.
    """
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(f"mask must be bool or integer, got {mask.dtype}")
    if mask.ndim < 2:
        raise ValueError(f"mask must be [..., H, W], got shape {tuple(mask.shape)}")
    if impl not in ("auto", "reference"):
        raise ValueError(f"impl must be 'auto' or 'reference', got {impl!r}")
    return connected_components_reference(mask)
