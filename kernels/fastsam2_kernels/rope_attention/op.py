"""Public function: validation and registration."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.launch_config import HALF
from fastsam2_kernels.registration import dtype_misfit, register_op
from fastsam2_kernels.rope_attention.reference import rope_attention_reference
from fastsam2_kernels.rope_attention.tuning import DIMS

__all__ = ["rope_attention"]


def rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: float,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Self-attention of one head with RoPE on queries and keys.

    Channels are in half-split order: RoPE rotates the pair (i, i + D / 2) by the angle of channel
    i. For weights that were trained with adjacent pairs, permute the rows of the projections.

    Args:
        q, k, v: [N, L, D], D = 128 or 256, rows contiguous; may be views of one [N, L, 3 D].
        cos, sin: [L, D / 2] float32, contiguous.
        scale: positive factor of the logits, usually D ** -0.5.
        impl: "auto" selects the kernels on a GPU for float16 and bfloat16, and PyTorch's attention
            otherwise. "triton" also supports float32.

    Returns:
        [N, L, D], contiguous, in the dtype of `q`.

    Raises:
        TypeError: dtypes differ or are not supported.
        ValueError: shapes, strides, devices, `scale` or `impl` are not valid.
        RuntimeError: `impl="triton"` cannot run here.

    Source: `RoPEAttention` of `sam2`; RoPE: arXiv 2104.09864; flash attention: arXiv 2307.08691.
    """
    _check(q, k, v, cos, sin, scale)
    return _run(impl, q, k, v, cos, sin, scale)


def _check(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, scale: float) -> None:
    if q.ndim != 3 or k.shape != q.shape or v.shape != q.shape:
        shapes = [tuple(x.shape) for x in (q, k, v)]
        raise ValueError(f"q, k and v must be [N, L, D] alike, got {shapes}")
    _, length, dim = q.shape
    if dim not in DIMS:
        raise ValueError(f"D must be one of {DIMS}, got {dim}")
    if cos.shape != (length, dim // 2) or sin.shape != cos.shape:
        shapes = [tuple(x.shape) for x in (cos, sin)]
        raise ValueError(f"cos and sin must be [{length}, {dim // 2}], got {shapes}")
    if not q.is_floating_point() or k.dtype != q.dtype or v.dtype != q.dtype:
        raise TypeError(f"q, k, v must be floating and alike, got {q.dtype}, {k.dtype}, {v.dtype}")
    if cos.dtype != torch.float32 or sin.dtype != torch.float32:
        raise TypeError(f"cos and sin must be float32, got {cos.dtype}, {sin.dtype}")
    if any(x.device != q.device for x in (k, v, cos, sin)):
        devices = [str(x.device) for x in (q, k, v, cos, sin)]
        raise ValueError(f"q, k, v, cos and sin must be on one device, got {devices}")
    if any(x.stride(-1) != 1 for x in (q, k, v)):
        strides = [x.stride() for x in (q, k, v)]
        raise ValueError(f"rows of q, k and v must be contiguous, got strides {strides}")
    if not (cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError(f"cos, sin must be contiguous, got {cos.stride()}, {sin.stride()}")
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, got {scale}")


def _flops(q: tuple[int, ...], *_rest: object, **_options: object) -> int:
    n, length, dim = q
    return 4 * n * length * length * dim


_run = register_op(
    "rope_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, float scale) -> Tensor",
    fake=lambda q, *_: torch.empty_like(q, memory_format=torch.contiguous_format),
    reference=rope_attention_reference,
    kernel="rope_attention.kernel:launch",
    misfit=lambda q, *_: dtype_misfit(q.dtype),
    prefers=lambda q, *_: q.dtype in HALF,
    flops=_flops,
)
