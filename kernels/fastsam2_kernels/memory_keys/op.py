"""Public function: validation and registration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.memory_keys.cpu import memory_keys_cpu
from fastsam2_kernels.memory_keys.reference import memory_keys_reference
from fastsam2_kernels.memory_keys.tuning import DIMS, WIDTHS
from fastsam2_kernels.registration import dtype_misfit, register_op
from fastsam2_kernels.validation import check_tensors

__all__ = ["memory_keys"]


def memory_keys(
    latents: Tensor,
    pos: Tensor,
    tpos: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    times: Tensor,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Return the keys of memories: RoPE(W_l (latents[slot] + pos + tpos[time]) + b_l).

    Args:
        latents: pool of memories [S, HW, M] in any floating dtype; a memory is converted to the
            dtype of `weight` when it is read.
        pos: spatial positions [HW, M], in the dtype of `weight`, as `tpos` and `bias` are.
        tpos: temporal positions [T, M].
        weight: key projections of L layers [L, D, M], channels in half-split order: channel i is
            rotated with channel i + D/2.
        bias: [L, D].
        cos, sin: rotary tables, float32 [HW, D/2].
        slots: int32 [R], row of `latents` of each read; -1 is padding.
        times: int32 [R], row of `tpos` of each read.
        impl: "auto" selects the Triton kernel on a GPU that can run it.

    Returns:
        [L, R, HW, D] in the dtype of `weight`. Keys of padding are undefined.

    Raises:
        TypeError: dtypes differ, tables are not float32, or indices are not int32.
        ValueError: shapes or devices differ, a tensor is not contiguous, or `impl` is unknown.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `k_proj` and `apply_rotary_enc` of `sam2.modeling.sam.transformer.RoPEAttention` on
    `memory + memory_pos`.
    """
    if latents.ndim != 3 or weight.ndim != 3 or tpos.ndim != 2 or slots.ndim != 1:
        raise ValueError(
            f"latents must be [S, HW, M], weight [L, D, M], tpos [T, M] and slots [R], got "
            f"{tuple(latents.shape)}, {tuple(weight.shape)}, {tuple(tpos.shape)}, "
            f"{tuple(slots.shape)}"
        )
    _, tokens, width = latents.shape
    layers, dim, _ = weight.shape
    if dim % 2:
        raise ValueError(f"D must be even, got {dim}")
    if not latents.is_floating_point():
        raise TypeError(f"latents must be floating point, got {latents.dtype}")
    dtype, single, index = weight.dtype, torch.float32, torch.int32
    check_tensors(
        weight.device,
        (
            ("latents", latents, latents.shape, latents.dtype),
            ("pos", pos, (tokens, width), dtype),
            ("tpos", tpos, (tpos.shape[0], width), dtype),
            ("weight", weight, (layers, dim, width), dtype),
            ("bias", bias, (layers, dim), dtype),
            ("cos", cos, (tokens, dim // 2), single),
            ("sin", sin, (tokens, dim // 2), single),
            ("slots", slots, slots.shape, index),
            ("times", times, slots.shape, index),
        ),
    )
    return _run(impl, latents, pos, tpos, weight, bias, cos, sin, slots, times)


def _fake(*args: Tensor) -> Tensor:
    latents, weight, slots = args[0], args[3], args[7]
    layers, dim, _ = weight.shape
    return weight.new_empty(
        layers, slots.shape[0], latents.shape[1], dim
    )  # len() would specialise R


def _misfit(
    latents: Tensor, pos: Tensor, tpos: Tensor, weight: Tensor, *_rest: Tensor
) -> Exception | None:
    _, dim, width = weight.shape
    if dim not in DIMS or width not in WIDTHS:
        return ValueError(f"the kernel takes D in {DIMS} and M in {WIDTHS}, got {dim} and {width}")
    return dtype_misfit(weight.dtype)


def _flops(*shapes: tuple[int, ...], **_options: object) -> int:
    latents, weight, slots = shapes[0], shapes[3], shapes[7]
    return 2 * math.prod(weight) * slots[0] * latents[1]


_run = register_op(
    "memory_keys",
    "(Tensor latents, Tensor pos, Tensor tpos, Tensor weight, Tensor bias, Tensor cos, Tensor sin, "
    "Tensor slots, Tensor times) -> Tensor",
    fake=_fake,
    reference=memory_keys_reference,
    kernel="memory_keys.kernel:launch",
    cpu=memory_keys_cpu,
    misfit=_misfit,
    flops=_flops,
)
