"""The public function: validation and choice of implementation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import on_its_device
from fastsam2_kernels.memory_keys.cpu import memory_keys_cpu
from fastsam2_kernels.memory_keys.reference import memory_keys_reference

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
    """Keys of the memories that are read: RoPE(W_l (latents[slot] + pos + tpos[time]) + b_l).

    Args:
        latents: pool of memories [S, HW, M] in any floating dtype; a memory is converted to the
            dtype of `weight` when it is read.
        pos: spatial positions [HW, M], in the dtype of `weight`, as `tpos` and `bias` are.
        tpos: temporal positions [T, M].
        weight: key projections of L layers [L, D, M], channels in half-split order: channel i is
            turned with channel i + D/2.
        bias: [L, D].
        cos, sin: rotary tables, float32 [HW, D/2].
        slots: int32 [R], the memory of each read; -1 is padding.
        times: int32 [R], the row of `tpos` of each read.
        impl: "auto" takes the Triton kernel on a GPU it runs on.

    Returns:
        [L, R, HW, D] in the dtype of `weight`. Keys of padding are not computed: undefined.

    Raises:
        TypeError: dtypes differ, tables are not float32, or indices are not int32.
        ValueError: shapes or devices do not fit, a tensor is not contiguous, or `impl` is unknown.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `k_proj` and `apply_rotary_enc` of `sam2.modeling.sam.transformer.RoPEAttention` on
    `memory + memory_pos`.
    """
    args = (latents, pos, tpos, weight, bias, cos, sin, slots, times)
    _check(*args)
    if impl == "auto":
        return _memory_keys(*args)
    if not uses_triton(impl, latents):
        return memory_keys_reference(*args)
    if not _fits(weight):
        raise ValueError(
            f"the kernel needs half or single precision, D a power of two from 32 and M from 16: "
            f"got {weight.dtype}, D {weight.shape[1]}, M {weight.shape[2]}"
        )
    return _launch(*args)


def _check(
    latents: Tensor,
    pos: Tensor,
    tpos: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    times: Tensor,
) -> None:
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
    for name, tensor, shape, expected in (
        ("latents", latents, latents.shape, latents.dtype),
        ("pos", pos, (tokens, width), dtype),
        ("tpos", tpos, (tpos.shape[0], width), dtype),
        ("weight", weight, (layers, dim, width), dtype),
        ("bias", bias, (layers, dim), dtype),
        ("cos", cos, (tokens, dim // 2), single),
        ("sin", sin, (tokens, dim // 2), single),
        ("slots", slots, slots.shape, index),
        ("times", times, slots.shape, index),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != expected:
            raise TypeError(f"{name} must be {expected}, got {tensor.dtype}")
        if tensor.device != latents.device:
            raise ValueError(f"{name} is on {tensor.device}, latents on {latents.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")


def _fits(weight: Tensor) -> bool:
    _, dim, width = weight.shape
    powers = dim & (dim - 1) == 0 and width & (width - 1) == 0
    known = weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and powers and dim >= 32 and width >= 16


@on_its_device
def _launch(*args: Tensor) -> Tensor:
    from fastsam2_kernels.memory_keys.kernel import launch

    return launch(*args)


@torch.library.custom_op("fastsam2::memory_keys", mutates_args=(), device_types="cuda")
def _memory_keys(
    latents: Tensor,
    pos: Tensor,
    tpos: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    times: Tensor,
) -> Tensor:
    fast = uses_triton("auto", latents) and _fits(weight)
    run = _launch if fast else memory_keys_reference
    return run(latents, pos, tpos, weight, bias, cos, sin, slots, times)


_memory_keys.register_kernel("cpu")(memory_keys_cpu)


@_memory_keys.register_fake
def _(
    latents: Tensor,
    pos: Tensor,
    tpos: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    times: Tensor,
) -> Tensor:
    layers, dim, _ = weight.shape
    return weight.new_empty(layers, slots.shape[0], latents.shape[1], dim)  # len() specialises


@register_flop_formula(torch.ops.fastsam2.memory_keys)
def _flops(
    latents: tuple[int, ...],
    pos: tuple[int, ...],
    tpos: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...],
    cos: tuple[int, ...],
    sin: tuple[int, ...],
    slots: tuple[int, ...],
    *_rest: object,
    **_options: object,
) -> int:
    layers, dim, width = weight
    return 2 * layers * slots[0] * latents[1] * dim * width
