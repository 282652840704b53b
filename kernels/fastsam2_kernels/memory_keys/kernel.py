"""Triton kernel: projection, bias and RoPE of one tile of latents for all layers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES, dot_precision
from fastsam2_kernels.memory_keys.tuning import Launch, choose, tuned

__all__ = ["launch", "variants"]


# The number of reads and the alignment of the tables, which are views of one upload, change between
# frames and must not recompile.
@triton.jit(do_not_specialize=["R"], do_not_specialize_on_alignment=["slots", "times"])
def memory_keys_kernel(
    latents,  # [S, HW, M], any floating dtype
    pos,  # [HW, M]
    tpos,  # [T, M]
    weight,  # [L, D, M]
    bias,  # [L, D]
    cos,  # [HW, D/2] float32
    sin,  # [HW, D/2] float32
    slots,  # [R] int32
    times,  # [R] int32
    keys,  # [L, R, HW, D], written
    R,
    HW,
    L: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    i_read = tl.program_id(1)
    slot = tl.load(slots + i_read).to(tl.int64)
    if slot >= 0:
        time = tl.load(times + i_read).to(tl.int64)
        H: tl.constexpr = D // 2
        o_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
        o_m = tl.arange(0, M)
        m_t = o_t[:, None] < HW
        # [BT, M]
        o_tm = o_t[:, None] * M + o_m[None, :]
        b_x = tl.load(latents + slot * HW * M + o_tm, mask=m_t, other=0.0)
        b_x = b_x.to(weight.dtype.element_ty).to(tl.float32)
        b_x += tl.load(pos + o_tm, mask=m_t, other=0.0).to(tl.float32)
        # [M]
        b_x += tl.load(tpos + time * M + o_m).to(tl.float32)[None, :]
        # Keys are computed transposed: both operands are then read by wgmma from shared memory, the
        # latents as they lie there, the weights as they are copied.
        # [M, BT]
        b_x = tl.trans(b_x.to(weight.dtype.element_ty))

        m_t = o_t[None, :] < HW
        p_read = keys + i_read.to(tl.int64) * HW * D
        stride_layer = tl.cast(R, tl.int64) * HW * D
        for c in range(0, H, BLOCK_C):
            o_c = c + tl.arange(0, BLOCK_C)
            # [BC, BT]
            o_ct = o_c[:, None] + o_t[None, :] * H
            b_cos = tl.load(cos + o_ct, mask=m_t, other=0.0)
            b_sin = tl.load(sin + o_ct, mask=m_t, other=0.0)
            for layer in range(L):
                # [BC, M]
                p_w = weight + layer * D * M + o_c[:, None] * M + o_m[None, :]
                b_w1 = tl.load(p_w)
                b_w2 = tl.load(p_w + H * M)
                # [BC]
                b_b1 = tl.load(bias + layer * D + o_c).to(tl.float32)
                b_b2 = tl.load(bias + layer * D + H + o_c).to(tl.float32)
                # [BC, BT]
                b_1 = tl.dot(b_w1, b_x, input_precision=PRECISION)
                b_2 = tl.dot(b_w2, b_x, input_precision=PRECISION)
                # By `fma`: Triton starts a sum `dot + bias` from the bias, for which wgmma waits.
                b_1 = tl.fma(b_1, 1.0, b_b1[:, None])
                b_2 = tl.fma(b_2, 1.0, b_b2[:, None])
                p_k = p_read + layer * stride_layer + o_c[:, None] + o_t[None, :] * D
                b_k1 = b_1 * b_cos - b_2 * b_sin
                b_k2 = b_2 * b_cos + b_1 * b_sin
                tl.store(p_k, b_k1.to(keys.dtype.element_ty), mask=m_t)
                tl.store(p_k + H, b_k2.to(keys.dtype.element_ty), mask=m_t)


def launch(
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
    out: Tensor | None = None,
    params: Launch | None = None,
) -> Tensor:
    """Run the kernel on arguments of `op.memory_keys` that have been checked.

    Args:
        out: [L, R, HW, D] contiguous, to be written except for padding; None allocates it.
        params: launch parameters; None for the tuned ones.
    """
    layers, dim, width = weight.shape
    tokens, reads = latents.shape[1], len(slots)
    if out is None:
        out = weight.new_empty(layers, reads, tokens, dim)
    if out.numel() == 0:
        return out
    if params is None:
        params = tuned(dim, weight.dtype, weight.device)
    memory_keys_kernel[(triton.cdiv(tokens, params.block_t), reads)](
        latents,
        pos,
        tpos,
        weight,
        bias,
        cos,
        sin,
        slots,
        times,
        out,
        reads,
        tokens,
        L=layers,
        D=dim,
        M=width,
        BLOCK_T=params.block_t,
        BLOCK_C=params.block_c,
        PRECISION=dot_precision(weight.dtype),
        num_warps=params.num_warps,
        num_stages=params.num_stages,
    )
    return out


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    found = []
    for dtype, name in TRITON_NAMES.items():
        for dim in (256, 128):
            found.append(_variant(dim, dtype, name, 4, capability))
        # Keys of many objects are made one layer at a time.
        found.append(_variant(256, dtype, name, 1, capability))
    # Memories are stored in bfloat16 even if the model computes in float32.
    for layers in (4, 1):
        found.append(_variant(256, torch.float32, "bf16", layers, capability))
    return found


def _variant(dim: int, dtype: torch.dtype, latents: str, layers: int, capability: int) -> Variant:
    params, name = choose(dim, dtype, capability), TRITON_NAMES[dtype]
    signature = dict.fromkeys(("pos", "tpos", "weight", "bias", "keys"), f"*{name}")
    signature |= {"latents": f"*{latents}", "slots": "*i32", "times": "*i32"}
    signature |= {"cos": "*fp32", "sin": "*fp32", "R": "i32", "HW": "i32"}
    label = f"{name} D{dim} {params.block_t}x{params.block_c}"
    label += "" if latents == name else f" {latents} latents"
    label += " one layer" if layers == 1 else ""
    return Variant(
        op="memory_keys",
        kernel=memory_keys_kernel,
        label=label,
        capability=capability,
        signature=signature,
        constants={
            "L": layers,
            "D": dim,
            "M": 64,
            "BLOCK_T": params.block_t,
            "BLOCK_C": params.block_c,
            "PRECISION": dot_precision(dtype),
        },
        num_warps=params.num_warps,
        num_stages=params.num_stages,
        has_dot=True,
        aligned=(*(k for k, v in signature.items() if v[0] == "*" and v != "*i32"), "HW"),
    )
