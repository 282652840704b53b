"""Public function: validation and registration."""

from __future__ import annotations

import pkgutil
from typing import Literal

import torch
from torch import Tensor

from fastsam2_kernels.dispatch import Impl, gluon_misfit
from fastsam2_kernels.launch_config import HALF
from fastsam2_kernels.memory_attention.cpu import memory_attention_cpu
from fastsam2_kernels.memory_attention.paged_memory import PagedMemory
from fastsam2_kernels.memory_attention.reference import memory_attention_reference
from fastsam2_kernels.memory_attention.sdpa import memory_attention_sdpa
from fastsam2_kernels.memory_attention.tuning import DIMS, WIDTHS
from fastsam2_kernels.registration import dtype_misfit, register_op
from fastsam2_kernels.validation import check_tensors

__all__ = ["memory_attention"]


def memory_attention(
    q: Tensor,
    memory: PagedMemory,
    cos: Tensor,
    sin: Tensor,
    scale: float,
    *,
    impl: Impl | Literal["gluon"] = "auto",
) -> Tensor:
    """Attention of N objects, each to its own memory; values are the latents.

    Values of the model are W_v latent + b_v, and the softmax weights sum to one, so W_o W_v and
    the biases can be applied to the result instead, which is M wide and not D.

    Args:
        q: queries before RoPE [N, Lq, D], in half-split channel order: channel i is rotated with
            channel i + D/2. Objects may share storage (`expand`).
        memory: keys and latents that the objects read; floating dtypes other than that of
            `latents` are the dtype of `q`.
        cos, sin: rotary tables of the queries, float32 [Lq, D/2].
        scale: factor of the logits, positive; 1/sqrt(D) in `sam2`.
        impl: "auto" selects the Triton kernel on a GPU that can run it. "gluon" selects a kernel
            written for Hopper GPUs (compute capability 9.0) in Gluon: half precision, latents in
            the dtype of `q`, Triton 3.6 or newer.

    Returns:
        [N, Lq, M] in the dtype of `q`; zeros for an object without memory.

    Raises:
        TypeError: dtypes differ, tables are not float32, indices are not int32, or `impl` does not
            take the dtypes.
        ValueError: shapes or devices do not match, a tensor is not contiguous, `scale` is not
            positive, `impl` is unknown or does not take the widths, or with `impl="gluon"`, keys or
            latents are empty or not aligned to 16 bytes.
        RuntimeError: `impl="triton"` or `impl="gluon"` cannot run here.

    Source: `sam2.modeling.sam.transformer.RoPEAttention` as cross-attention; pages as in
    PagedAttention (arXiv 2309.06180), split-KV as in Flash-Decoding.
    """
    _check(q, memory, cos, sin)
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if impl == "gluon":
        return _run_gluon(q, memory, cos, sin, scale)
    return _run(impl, q, memory, cos, sin, scale)


def _check(q: Tensor, memory: PagedMemory, cos: Tensor, sin: Tensor) -> None:
    m = memory
    if q.ndim != 3 or m.keys.ndim != 3 or m.latents.ndim != 3 or m.reads.ndim != 2:
        raise ValueError(
            f"q must be [N, Lq, D], keys [R, HW, D], latents [S, HW, M] and reads [N, K], got "
            f"{tuple(q.shape)}, {tuple(m.keys.shape)}, {tuple(m.latents.shape)}, "
            f"{tuple(m.reads.shape)}"
        )
    objects, queries, dim = q.shape
    _, tokens, width = m.latents.shape
    if dim % 2 or not tokens:
        raise ValueError(f"D must be even and HW at least 1, got D {dim}, HW {tokens}")
    if m.pointer_keys.ndim != 3:
        raise ValueError(f"pointer_keys must be [N, P, D], got {tuple(m.pointer_keys.shape)}")
    if not m.latents.is_floating_point():
        raise TypeError(f"latents must be floating point, got {m.latents.dtype}")
    pointers = m.pointer_keys.shape[1]
    single, index = torch.float32, torch.int32
    # Objects of q may overlap; what follows the first dimension may not.
    if not q[:1].is_contiguous():
        raise ValueError(f"q must be contiguous within an object, got strides {q.stride()}")
    check_tensors(
        q.device,
        (
            ("keys", m.keys, (m.keys.shape[0], tokens, dim), q.dtype),
            ("latents", m.latents, m.latents.shape, m.latents.dtype),
            ("slots", m.slots, m.reads.shape, index),
            ("reads", m.reads, (objects, m.reads.shape[1]), index),
            ("num_reads", m.num_reads, (objects,), index),
            ("pointer_keys", m.pointer_keys, (objects, pointers, dim), q.dtype),
            ("pointer_latents", m.pointer_latents, (objects, pointers, width), q.dtype),
            ("num_pointers", m.num_pointers, (objects,), index),
            ("cos", cos, (queries, dim // 2), single),
            ("sin", sin, (queries, dim // 2), single),
        ),
    )


def _fake(q: Tensor, memory: list[Tensor], *_rest: object) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], memory[1].shape[2])


def _width_misfit(q: Tensor, memory: PagedMemory) -> ValueError | None:
    dim, width = q.shape[2], memory.latents.shape[2]
    if dim in DIMS and width in WIDTHS:
        return None
    return ValueError(f"the kernel takes D in {DIMS} and M in {WIDTHS}, got {dim} and {width}")


def _misfit(q: Tensor, memory: PagedMemory, *_: object) -> Exception | None:
    return _width_misfit(q, memory) or dtype_misfit(q.dtype)


def _gluon_misfit(q: Tensor, memory: PagedMemory) -> Exception | None:
    if q.dtype not in HALF:
        return TypeError(f"impl='gluon' takes float16 or bfloat16, not {q.dtype}")
    if memory.latents.dtype != q.dtype:
        return TypeError(
            f"impl='gluon' takes latents of the dtype of q, {q.dtype}, not {memory.latents.dtype}"
        )
    for name in ("keys", "latents"):
        pages: Tensor = getattr(memory, name)
        if not len(pages):
            return ValueError(f"impl='gluon' needs at least one page, got {name} of 0 rows")
        if pages.data_ptr() % 16:
            return ValueError(
                f"impl='gluon' needs {name} aligned to 16 bytes, got address {pages.data_ptr():#x}"
            )
    return _width_misfit(q, memory)


def _run_gluon(q: Tensor, memory: PagedMemory, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    if error := gluon_misfit(q) or _gluon_misfit(q, memory):
        raise error
    launch = pkgutil.resolve_name("fastsam2_kernels.memory_attention.gluon_kernel:launch")
    with torch.cuda.device_of(q):
        out: Tensor = launch(q, memory, cos, sin, scale)
        return out


def _flops(
    q: tuple[int, ...], memory: list[tuple[int, ...]], *_rest: object, **_options: object
) -> int:
    """Count from shapes, as if every object read as much as the one that reads most."""
    _, latents, _, reads, _, pointers, *_ = memory
    objects, queries, dim = q
    tokens, width = latents[1:]
    return 2 * objects * queries * (reads[1] * tokens + pointers[1]) * (dim + width)


_run = register_op(
    "memory_attention",
    "(Tensor q, Tensor[] memory, Tensor cos, Tensor sin, float scale) -> Tensor",
    fake=_fake,
    reference=memory_attention_reference,
    kernel="memory_attention.kernel:launch",
    cpu=memory_attention_cpu,
    fallback=memory_attention_sdpa,
    misfit=_misfit,
    record=PagedMemory,
    flops=_flops,
)
