"""Public function: validation and registration."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.connected_components.reference import connected_components_reference
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.registration import register_op

__all__ = ["connected_components"]

#: Kernels index the pixels of an image in int32, including a last program that exceeds it.
_MAX_PIXELS = 2**30


def connected_components(mask: Tensor, *, impl: Impl = "auto") -> tuple[Tensor, Tensor]:
    """Label the 8-connected components of each image.

    Args:
        mask: [..., H, W] bool or integer (non-zero is foreground); [N, 1, H, W] in `sam2`.
            H * W is at most 2^30.
        impl: "auto", "triton" or "reference".

    Returns:
        labels: like `mask`, int32: 0 in the background, 1..K in each image, numbered by the
            first pixel of the component in raster order.
        areas: like `mask`, int32: pixels in the component of each foreground pixel, else 0.

    Raises:
        TypeError: `mask` is a floating-point or complex tensor.
        ValueError: `mask` has fewer than two dimensions or too many pixels, or `impl` is unknown.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `get_connected_componnets` of the CUDA extension of `sam2`; block-based union-find,
    Allegretti, Bolelli and Grana, "Optimized Block-Based Algorithms to Label Connected Components
    on GPUs", IEEE TPDS 2020.
    """
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(f"mask must be bool or integer, got {mask.dtype}")
    if mask.ndim < 2:
        raise ValueError(f"mask must be [..., H, W], got shape {tuple(mask.shape)}")
    if mask.shape[-2] * mask.shape[-1] > _MAX_PIXELS:
        raise ValueError(f"mask must be at most 2^30 pixels an image, got {tuple(mask.shape)}")
    return _run(impl, mask)


def _fake(mask: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.empty_like(mask, dtype=torch.int32, memory_format=torch.contiguous_format)
    return labels, torch.empty_like(labels)


_run = register_op(
    "connected_components",
    "(Tensor mask) -> (Tensor, Tensor)",
    fake=_fake,
    reference=connected_components_reference,
    kernel="connected_components.kernel:launch",
)
