"""Triton kernels of a ConvNeXt block: depthwise convolution with norm, then the two linear layers.

The 4 C hidden channels stay in registers; between the two kernels there is one map of the size of
the image.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.cx_block.tuning import CHANNELS, Launch, choose, launch_for
from fastsam2_kernels.launch_config import TRITON_NAMES, dot_precision

__all__ = ["launch", "variants"]


# The number of pixels affects masks only; specialising on it would compile more versions.
@triton.jit(do_not_specialize=["M"])
def _conv_norm_kernel(
    x,  # [N, H, W, C]
    weight,  # [C, 7, 7] with strides s_wc, 7 * s_wt, s_wt
    bias,  # [C]
    norm_weight,  # [C]
    norm_bias,  # [C]
    out,  # [N, H, W, C]
    eps,  # float32
    M,  # N * H * W
    H,
    W,
    s_wc,
    s_wt,
    C: tl.constexpr,
    BP: tl.constexpr,
):
    i_p = tl.program_id(0) * BP
    base = i_p.to(tl.int64) * C
    o_p = i_p + tl.arange(0, BP)
    o_c = tl.arange(0, C)
    # [BP, C]
    o_pc = tl.arange(0, BP)[:, None] * C + o_c[None, :]
    o_x = o_p % W
    o_y = o_p // W % H
    p_w = weight + o_c * s_wc

    p_x = x + base + o_pc
    b_y = tl.zeros([BP, C], tl.float32)
    for i_y in range(-3, 4):
        m_y = (o_p < M) & (o_y + i_y >= 0) & (o_y + i_y < H)
        for i_x in tl.static_range(-3, 4):
            m_x = m_y & (o_x + i_x >= 0) & (o_x + i_x < W)
            # [BP, C]
            b_x = tl.load(p_x + (i_y * W + i_x) * C, mask=m_x[:, None], other=0.0)
            # [C]
            b_w = tl.load(p_w + (i_y * 7 + i_x + 24) * s_wt)
            b_y += b_x.to(tl.float32) * b_w.to(tl.float32)[None, :]
    b_y += tl.load(bias + o_c).to(tl.float32)[None, :]

    b_mean = tl.sum(b_y, 1) / C
    b_y -= b_mean[:, None]
    b_scale = tl.rsqrt(tl.sum(b_y * b_y, 1) / C + eps)
    b_y *= b_scale[:, None]
    b_y *= tl.load(norm_weight + o_c).to(tl.float32)[None, :]
    b_y += tl.load(norm_bias + o_c).to(tl.float32)[None, :]
    # [BP, C]
    tl.store(out + base + o_pc, b_y.to(out.dtype.element_ty), mask=(o_p < M)[:, None])


@triton.jit
def gelu(x):
    """Return x Phi(x) for float32 x, without the branches of `erf`.

    Phi(-|x|) = 2^(|x| p(|x|)) / 2, with a polynomial p fitted to the error of the result.
    """
    a = tl.abs(x)
    p = a * -2.2737046e-08 + 7.2029184e-07
    p = p * a - 9.676571e-06
    p = p * a + 7.003876e-05
    p = p * a - 2.6099337e-04
    p = p * a - 3.2827473e-05
    p = p * a + 6.98142e-03
    p = p * a - 5.2461714e-02
    p = p * a - 4.5921493e-01
    p = p * a - 1.1511048
    return tl.maximum(x, 0.0) - 0.5 * a * tl.exp2(p * a)


@triton.jit(do_not_specialize=["M"])
def _mlp_kernel(
    y,  # [M, C]
    x,  # [M, C]
    w1,  # [4 C, C]
    b1,  # [4 C]
    w2,  # [C, 4 C]
    b2,  # [C]
    out,  # [M, C]
    M,
    C: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # The three TF32 products of float32 keep two parts of y in registers: half at a time.
    BD: tl.constexpr = C // 2 if PRECISION == "tf32x3" else C
    o_m = tl.arange(0, BM)
    o_c = tl.arange(0, C)
    o_d = tl.arange(0, BD)
    o_h = tl.arange(0, BH)
    # A scalar base and small offsets: 64-bit offsets would occupy registers through the loop.
    i_m = tl.program_id(0) * BM
    base = i_m.to(tl.int64) * C
    m_m = (o_m < M - i_m)[:, None]

    # [BM, BD]
    p_y = y + base + o_m[:, None] * C + o_d[None, :]
    b_y = tl.load(p_y, mask=m_m, other=0.0)
    if BD < C:
        b_y2 = tl.load(p_y + BD, mask=m_m, other=0.0)
    b_acc = tl.zeros([BM, C], tl.float32)
    # [BD, BH]
    p_w1 = w1 + o_h[None, :] * C + o_d[:, None]
    # [BH, C]
    p_w2 = w2 + o_c[None, :] * (4 * C) + o_h[:, None]
    for i_h in range(0, 4 * C, BH):
        # [BH]
        b_b1 = tl.load(b1 + i_h + o_h).to(tl.float32)
        # [BM, BH]
        b_h = tl.dot(b_y, tl.load(p_w1), input_precision=PRECISION)
        if BD < C:
            b_h = tl.dot(b_y2, tl.load(p_w1 + BD), b_h, input_precision=PRECISION)
        # By `fma`: Triton starts a sum `dot + bias` from the bias, for which wgmma waits.
        b_h = gelu(tl.fma(b_h, 1.0, b_b1[None, :]))
        # [BM, C]
        b_w2 = tl.load(p_w2)
        b_acc = tl.dot(b_h.to(b_w2.dtype), b_w2, b_acc, input_precision=PRECISION)
        p_w1 += BH * C
        p_w2 += BH
    # Only now, so that the prologue takes no more registers than the loop.
    # [BM, C]
    o_mc = o_m[:, None] * C + o_c[None, :]
    b_acc += tl.load(x + base + o_mc, mask=m_m, other=0.0).to(tl.float32)
    b_acc += tl.load(b2 + o_c).to(tl.float32)[None, :]
    tl.store(out + base + o_mc, b_acc.to(out.dtype.element_ty), mask=m_m)


def launch(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    out: Tensor | None = None,
    params: Launch | None = None,
) -> Tensor:
    """Run the kernels on arguments of `op.cx_block` that have been checked.

    Args:
        out: [N, H, W, C] contiguous, to be written; None allocates it.
        params: launch parameters; None for the tuned ones.
    """
    n, height, width, channels = x.shape
    pixels = n * height * width
    if out is None:
        out = torch.empty_like(x)
    if pixels == 0:
        return out
    if params is None:
        params = launch_for(x.device, pixels, channels, x.dtype)
    y = torch.empty_like(x)
    _conv_norm_kernel[(triton.cdiv(pixels, params.pixels),)](
        x, dw_weight, dw_bias, norm_weight, norm_bias, y, eps, pixels, height, width,
        dw_weight.stride(0), dw_weight.stride(2),
        C=channels, BP=params.pixels, num_warps=params.conv_warps,
    )  # fmt: skip
    _mlp_kernel[(triton.cdiv(pixels, params.block_m),)](
        y, x, w1, b1, w2, b2, out, pixels,
        C=channels, BM=params.block_m, BH=params.block_h, PRECISION=dot_precision(x.dtype),
        num_warps=params.num_warps, num_stages=params.num_stages,
    )  # fmt: skip
    return out


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    found = []
    for dtype, name in TRITON_NAMES.items():
        for channels in CHANNELS:
            config = choose(channels, dtype, capability)
            found += [
                _conv_variant(config, channels, f"*{name}", capability),
                _mlp_variant(config, channels, dtype, capability),
            ]
    return found


def _conv_variant(config: Launch, channels: int, pointer: str, capability: int) -> Variant:
    tensors = dict.fromkeys(("x", "weight", "bias", "norm_weight", "norm_bias", "out"), pointer)
    sizes = dict.fromkeys(("M", "H", "W", "s_wt"), "i32")
    return Variant(
        op="cx_block",
        kernel=_conv_norm_kernel,
        label=f"{pointer[1:]} C{channels} {config.pixels}",
        capability=capability,
        signature=tensors | {"eps": "fp32"} | sizes,
        # Weights in the layout [7, 7, C]: a stride of one is a constant to the compiler.
        constants={"C": channels, "BP": config.pixels, "s_wc": 1},
        num_warps=config.conv_warps,
        num_stages=3,
        has_dot=False,
        aligned=(*tensors, "H", "W", "s_wt"),
    )


def _mlp_variant(config: Launch, channels: int, dtype: torch.dtype, capability: int) -> Variant:
    name = TRITON_NAMES[dtype]
    tensors = dict.fromkeys(("y", "x", "w1", "b1", "w2", "b2", "out"), f"*{name}")
    constants: dict[str, Any] = {
        "C": channels,
        "BM": config.block_m,
        "BH": config.block_h,
        "PRECISION": dot_precision(dtype),
    }
    return Variant(
        op="cx_block",
        kernel=_mlp_kernel,
        label=f"{name} C{channels} {config.block_m}x{config.block_h}",
        capability=capability,
        signature=tensors | {"M": "i32"},
        constants=constants,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        has_dot=True,
        aligned=tuple(tensors),
    )
