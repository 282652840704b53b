"""The public function: validation, registration and choice of implementation."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import on_its_device
from fastsam2_kernels.mask_output.reference import (
    RunLengths,
    mask_bits_reference,
    mask_bool_reference,
    mask_runs_reference,
)
from fastsam2_kernels.mask_output.tuning import choose

__all__ = ["mask_output"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Kernels number the pixels of an image, and those of the program that ends after it, in int32.
_MAX_PIXELS = 2**30


@overload
def mask_output(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float = ...,
    *,
    format: Literal["bool", "bits"] = ...,
    impl: Impl = ...,
) -> Tensor: ...
@overload
def mask_output(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float = ...,
    *,
    format: Literal["rle"],
    impl: Impl = ...,
) -> RunLengths: ...
def mask_output(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float = 0.0,
    *,
    format: Literal["bool", "bits", "rle"] = "bool",
    impl: Impl = "auto",
) -> Tensor | RunLengths:
    """Masks of `size`: where logits, upsampled bilinearly, are above a threshold.

    The same as `F.interpolate(..., mode="bilinear", align_corners=False) > threshold` in float32,
    of float64 logits in float64. On a GPU the upsampled logits are not stored, and for "bits" and
    "rle" neither are the masks.

    Args:
        logits: [N, h, w] float32, float16, bfloat16 or float64; h * w is at most 2^30.
        size: (H, W) in pixels; H * W is at most 2^30.
        threshold: a pixel is set where its logit is greater.
        format: "bool"; "bits" for 1 bit a pixel; "rle" for COCO run lengths, which on a GPU wait
            for the device once, to learn how many there are.
        impl: "auto", "triton" or "reference".

    Returns:
        "bool": [N, H, W]. "bits": uint8 [N, H, ceil(W / 8)], as `numpy.packbits(..., axis=-1)`
        writes and `numpy.unpackbits(..., axis=-1, count=W)` reads. "rle": `RunLengths`.

    Raises:
        TypeError: `logits` is of another dtype, or float64 with `impl="triton"`; `threshold` is no
            number.
        ValueError: a shape, `size`, `format` or `impl` that cannot be used.
        RuntimeError: `impl="triton"` where it cannot run.

    Source: `_get_orig_video_res_output` of `sam2`; `pycocotools.mask` for the run lengths.
    """
    if logits.dtype not in (*_DTYPES, torch.float64):
        raise TypeError(f"logits must be of a float dtype of 16 to 64 bits, got {logits.dtype}")
    if logits.ndim != 3 or 0 in logits.shape[1:]:
        raise ValueError(f"logits must be [N, h, w], got shape {tuple(logits.shape)}")
    if logits.shape[1] * logits.shape[2] > _MAX_PIXELS:
        raise ValueError(f"logits must be at most 2^30 a mask, got shape {tuple(logits.shape)}")
    # A size stays symbolic in a graph, which `operator.index` would fix.
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(n, Integral) for n in size):
        raise ValueError(f"size must be (height, width) in whole pixels, got {size!r}")
    height, width = size
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        raise ValueError(f"size must be 1 to 2^30 pixels, got {height} x {width}")
    if not isinstance(threshold, Real):
        raise TypeError(f"threshold must be a number, got {threshold!r}")
    threshold = float(threshold)
    if format not in ("bool", "bits", "rle"):
        raise ValueError(f"format must be 'bool', 'bits' or 'rle', got {format!r}")
    use_triton = uses_triton(impl, logits)
    if impl == "triton" and logits.dtype not in _DTYPES:
        raise TypeError(f"impl='triton' takes float32, float16 and bfloat16, not {logits.dtype}")

    if format == "rle":
        if impl == "auto":
            return RunLengths(*_runs(logits, height, width, threshold))
        if use_triton:
            return RunLengths(*_runs_triton(logits, height, width, threshold))
        return mask_runs_reference(mask_bool_reference(logits, (height, width), threshold))
    packed = format == "bits"
    if impl == "auto":
        return _mask(logits, height, width, threshold, packed)
    if use_triton:
        return _mask_triton(logits, height, width, threshold, packed)
    mask = mask_bool_reference(logits, (height, width), threshold)
    return mask_bits_reference(mask) if packed else mask


@torch.library.custom_op("fastsam2::mask_output", mutates_args=(), device_types="cuda")
def _mask(logits: Tensor, height: int, width: int, threshold: float, packed: bool) -> Tensor:
    if not uses_triton("auto", logits) or logits.dtype not in _DTYPES:
        mask = mask_bool_reference(logits, (height, width), threshold)
        return mask_bits_reference(mask) if packed else mask
    return _mask_triton(logits, height, width, threshold, packed)


@_mask.register_kernel("cpu")
def _mask_cpu(logits: Tensor, height: int, width: int, threshold: float, packed: bool) -> Tensor:
    if not packed:
        # One at a time: upsampled logits are 32 times larger than the bits that they become.
        out = logits.new_empty(len(logits), height, width, dtype=torch.bool)
        for i in range(len(logits)):
            out[i] = mask_bool_reference(logits[i : i + 1], (height, width), threshold)[0]
        return out
    out = logits.new_empty(len(logits), height, -(-width // 8), dtype=torch.uint8)
    for i in range(len(logits)):
        mask = mask_bool_reference(logits[i : i + 1], (height, width), threshold)[0]
        out[i] = torch.from_numpy(np.packbits(mask.numpy(), axis=-1))
    return out


# len() in a fake would fix the number of masks.
@_mask.register_fake
def _mask_fake(logits: Tensor, height: int, width: int, threshold: float, packed: bool) -> Tensor:
    if packed:
        return logits.new_empty(logits.shape[0], height, (width + 7) // 8, dtype=torch.uint8)
    return logits.new_empty(logits.shape[0], height, width, dtype=torch.bool)


@on_its_device
def _mask_triton(logits: Tensor, height: int, width: int, threshold: float, packed: bool) -> Tensor:
    from fastsam2_kernels.mask_output.kernel import launch_bits, launch_bool

    launch = launch_bits if packed else launch_bool
    return launch(logits.contiguous(), (height, width), threshold, choose(logits.device))


@torch.library.custom_op("fastsam2::mask_output_runs", mutates_args=(), device_types="cuda")
def _runs(logits: Tensor, height: int, width: int, threshold: float) -> tuple[Tensor, Tensor]:
    if not uses_triton("auto", logits) or logits.dtype not in _DTYPES:
        runs = mask_runs_reference(mask_bool_reference(logits, (height, width), threshold))
        return runs.counts, runs.offsets
    return _runs_triton(logits, height, width, threshold)


@_runs.register_kernel("cpu")
def _runs_cpu(logits: Tensor, height: int, width: int, threshold: float) -> tuple[Tensor, Tensor]:
    counts, offsets = [torch.empty(0, dtype=torch.int32)], torch.zeros(len(logits) + 1).long()
    for i in range(len(logits)):
        mask = mask_bool_reference(logits[i : i + 1], (height, width), threshold)
        counts.append(mask_runs_reference(mask).counts)
        offsets[i + 1] = offsets[i] + len(counts[-1])
    return torch.cat(counts), offsets


@_runs.register_fake
def _runs_fake(logits: Tensor, height: int, width: int, threshold: float) -> tuple[Tensor, Tensor]:
    n_runs = torch.library.get_ctx().new_dynamic_size()
    return (
        logits.new_empty(n_runs, dtype=torch.int32),
        logits.new_empty(logits.shape[0] + 1, dtype=torch.int64),
    )


@on_its_device
def _runs_triton(
    logits: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    from fastsam2_kernels.mask_output.kernel import launch_runs

    runs = launch_runs(logits.contiguous(), (height, width), threshold, choose(logits.device))
    return runs.counts, runs.offsets
