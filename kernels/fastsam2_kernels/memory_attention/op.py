"""The public function: validation and choice of implementation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import on_its_device
from fastsam2_kernels.memory_attention.cpu import memory_attention_cpu
from fastsam2_kernels.memory_attention.reference import memory_attention_reference
from fastsam2_kernels.memory_attention.sdpa import memory_attention_sdpa

__all__ = ["memory_attention"]


def memory_attention(
    q: Tensor,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Attention of N objects, each to its own memory; values are the latents.

    Values of the model are W_v latent + b_v, and weights sum to one: W_o W_v and the biases are
    applied to the result instead, which is M wide and not D.

    Args:
        q: queries before RoPE [N, Lq, D], in half-split channel order: channel i is turned with
            channel i + D/2. Objects may share storage (`expand`).
        keys: turned keys [R, HW, D] of one layer, as `memory_keys` makes them.
        latents: pool of memories [S, HW, M] in any floating dtype; a memory is converted to the
            dtype of `q` when it is read.
        slots: int32 [N, K], the row of `latents` of each read.
        reads: int32 [N, K], the row of `keys` of each read.
        num_reads: int32 [N], how many of the K are valid.
        pointer_keys: keys of tokens without a place [N, P, D]; P may be 0.
        pointer_latents: [N, P, M].
        num_pointers: int32 [N], how many of the P are valid.
        cos, sin: rotary tables of the queries, float32 [Lq, D/2].
        scale: of the logits, positive; 1/sqrt(D) in `sam2`.

    Returns:
        [N, Lq, M] in the dtype of `q`; zeros for an object without memory.

    Raises:
        TypeError: dtypes differ, tables are not float32, or indices are not int32.
        ValueError: shapes or devices do not fit, a tensor is not contiguous, `scale` is not
            positive, or `impl` is unknown.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `sam2.modeling.sam.transformer.RoPEAttention` as cross-attention; pages as in
    PagedAttention (arXiv 2309.06180), parts as in Flash-Decoding.
    """
    memory = (keys, latents, slots, reads, num_reads, pointer_keys, pointer_latents, num_pointers)
    _check(q, *memory, cos, sin)
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if impl == "auto":
        return _memory_attention(q, *memory, cos, sin, scale)
    if not uses_triton(impl, q):
        return memory_attention_reference(q, *memory, cos, sin, scale)
    if not _fits(q, latents):
        raise ValueError(
            f"the kernel needs half or single precision, D 32 to 256 and M 16 to 128, powers of "
            f"two: got {q.dtype}, D {q.shape[2]}, M {latents.shape[2]}"
        )
    return _launch(q, *memory, cos, sin, scale)


def _check(
    q: Tensor,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> None:
    if q.ndim != 3 or keys.ndim != 3 or latents.ndim != 3 or reads.ndim != 2:
        raise ValueError(
            f"q must be [N, Lq, D], keys [R, HW, D], latents [S, HW, M] and reads [N, K], got "
            f"{tuple(q.shape)}, {tuple(keys.shape)}, {tuple(latents.shape)}, {tuple(reads.shape)}"
        )
    objects, queries, dim = q.shape
    _, tokens, width = latents.shape
    if dim % 2 or not tokens:
        raise ValueError(f"D must be even and HW at least 1, got D {dim}, HW {tokens}")
    if pointer_keys.ndim != 3:
        raise ValueError(f"pointer_keys must be [N, P, D], got {tuple(pointer_keys.shape)}")
    pointers = pointer_keys.shape[1]
    if not latents.is_floating_point():
        raise TypeError(f"latents must be floating point, got {latents.dtype}")
    half, single, index = q.dtype, torch.float32, torch.int32
    # Objects of q may overlap; what follows the first dimension may not.
    if not q[:1].is_contiguous():
        raise ValueError(f"q must be contiguous within an object, got strides {q.stride()}")
    for name, tensor, shape, dtype in (
        ("keys", keys, (keys.shape[0], tokens, dim), half),
        ("latents", latents, latents.shape, latents.dtype),
        ("slots", slots, (objects, reads.shape[1]), index),
        ("reads", reads, (objects, reads.shape[1]), index),
        ("num_reads", num_reads, (objects,), index),
        ("pointer_keys", pointer_keys, (objects, pointers, dim), half),
        ("pointer_latents", pointer_latents, (objects, pointers, width), half),
        ("num_pointers", num_pointers, (objects,), index),
        ("cos", cos, (queries, dim // 2), single),
        ("sin", sin, (queries, dim // 2), single),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")


def _fits(q: Tensor, latents: Tensor) -> bool:
    dim, width = q.shape[2], latents.shape[2]
    powers = dim & (dim - 1) == 0 and width & (width - 1) == 0
    known = q.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and powers and 32 <= dim <= 256 and 16 <= width <= 128


@on_its_device
def _launch(
    q: Tensor,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> Tensor:
    from fastsam2_kernels.memory_attention.kernel import launch

    memory = (keys, latents, slots, reads, num_reads, pointer_keys, pointer_latents, num_pointers)
    return launch(q, *memory, cos, sin, scale)


@torch.library.custom_op("fastsam2::memory_attention", mutates_args=(), device_types="cuda")
def _memory_attention(
    q: Tensor,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> Tensor:
    fast = uses_triton("auto", q) and _fits(q, latents)
    memory = (keys, latents, slots, reads, num_reads, pointer_keys, pointer_latents, num_pointers)
    return (_launch if fast else memory_attention_sdpa)(q, *memory, cos, sin, scale)


_memory_attention.register_kernel("cpu")(memory_attention_cpu)


@_memory_attention.register_fake
def _(
    q: Tensor,
    keys: Tensor,
    latents: Tensor,
    slots: Tensor,
    reads: Tensor,
    num_reads: Tensor,
    pointer_keys: Tensor,
    pointer_latents: Tensor,
    num_pointers: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], latents.shape[2])


@register_flop_formula(torch.ops.fastsam2.memory_attention)
def _flops(
    q: tuple[int, ...],
    keys: tuple[int, ...],
    latents: tuple[int, ...],
    slots: tuple[int, ...],
    reads: tuple[int, ...],
    num_reads: tuple[int, ...],
    pointer_keys: tuple[int, ...],
    *_rest: object,
    **_options: object,
) -> int:
    """Of shapes: as if every object read as much as the one that reads most."""
    objects, queries, dim = q
    tokens, width = latents[1:]
    return 2 * objects * queries * (reads[1] * tokens + pointer_keys[1]) * (dim + width)
