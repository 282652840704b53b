"""The public function: validation, registration and choice of implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.connected_components.reference import connected_components_reference
from fastsam2_kernels.connected_components.tuning import choose
from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import on_its_device

__all__ = ["Impl", "connected_components"]

#: Kernels number the pixels of an image, and those of the program that ends after it, in int32.
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
        RuntimeError: `impl="triton"` where it cannot run.

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
    if impl == "auto":
        return _registered(mask)
    return (_triton if uses_triton(impl, mask) else connected_components_reference)(mask)


@torch.library.custom_op("fastsam2::connected_components", mutates_args=(), device_types="cuda")
def _registered(mask: Tensor) -> tuple[Tensor, Tensor]:
    if not uses_triton("auto", mask):
        return _contiguous(mask)
    return _triton(mask)


@_registered.register_kernel("cpu")
def _contiguous(mask: Tensor) -> tuple[Tensor, Tensor]:
    return connected_components_reference(mask)


@_registered.register_fake
def _fake(mask: Tensor) -> tuple[Tensor, Tensor]:
    return (
        mask.new_empty(mask.shape, dtype=torch.int32),
        mask.new_empty(mask.shape, dtype=torch.int32),
    )


@on_its_device
def _triton(mask: Tensor) -> tuple[Tensor, Tensor]:
    from fastsam2_kernels.connected_components.kernel import launch

    # One byte a pixel, non-zero inside.
    if mask.element_size() != 1:
        mask = mask != 0
    mask_nhw = mask.contiguous().view(torch.uint8)
    mask_nhw = mask_nhw.view(mask.shape[:-2].numel(), *mask.shape[-2:])
    labels, areas = launch(mask_nhw, choose(mask.device))
    return labels.view(mask.shape), areas.view(mask.shape)
