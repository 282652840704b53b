"""Triton kernels of mask downsampling."""

from dataclasses import fields

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.launch_config import TRITON_NAMES, dot_precision
from fastsam2_kernels.mask_downsample.reference import (
    EPS,
    DownsampleStage,
    MaskDownsampleWeights,
    convolve,
    project,
)
from fastsam2_kernels.mask_downsample.tuning import Launch, choose

__all__ = ["launch", "launch_norm_gelu", "launch_two_stages", "variants"]

# Modes: the function from input to mask value.
SIGMOID = tl.constexpr(0)
POSITIVE = tl.constexpr(1)
NON_ZERO = tl.constexpr(2)

C1 = tl.constexpr(4)  # channels after the first stage
C2 = tl.constexpr(16)  # channels after the second stage


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


# The number of pixels affects masks only; specialising on it would compile more versions.
@triton.jit(do_not_specialize=["n_out"])
def mask_downsample_kernel(
    p_logits,  # [N, h, w]
    p_w1,  # [4, 1, 3, 3]
    p_b1,  # [4]
    p_norm1_w,  # [4]
    p_norm1_b,  # [4]
    p_w2,  # [16, 4, 3, 3]
    p_b2,  # [16]
    p_norm2_w,  # [16]
    p_norm2_b,  # [16]
    p_out,  # [N, H2, W2, 16]
    scale,
    bias,
    n_out,  # N * H2 * W2
    h,
    w,
    H2,
    W2,
    eps: tl.constexpr,
    UPSAMPLE: tl.constexpr,  # 4 or 1
    MODE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the first two stages, for BLOCK_P output pixels of the second.

    An output pixel depends on 3x3 pixels of the first stage and on 7x7 of the mask at full size.
    Both convolutions are matrix products with a Toeplitz matrix of the few weights. Overlapping
    patches are recomputed, which costs less than storing a map of the full size.
    """
    dtype = p_w1.dtype.element_ty
    # Sizes of the mask and of the first stage's output.
    S_h, S_w = h * UPSAMPLE, w * UPSAMPLE
    H1, W1 = (S_h + 1) // 2, (S_w + 1) // 2

    # [P]
    o_p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    m_p = o_p < n_out
    i_x = o_p % W2
    i_y = (o_p // W2) % H2
    p_image = p_logits + (o_p // (W2 * H2)).to(tl.int64) * h * w

    # The 7x7 patch, padded to 8x8: mask pixel (4 y - 3 + jy, 4 x - 3 + jx).
    # [64]
    o_j = tl.arange(0, 64)
    jy, jx = o_j // 8, o_j % 8
    # [P, 64]
    i_my = 4 * i_y[:, None] - 3 + jy[None, :]
    i_mx = 4 * i_x[:, None] - 3 + jx[None, :]
    m_inside = (i_my >= 0) & (i_my < S_h) & (i_mx >= 0) & (i_mx < S_w) & m_p[:, None]
    if UPSAMPLE == 1:
        # [P, 64]
        b_low = tl.load(p_image[:, None] + i_my * w + i_mx, mask=m_inside, other=0)
        b_mask = b_low.to(tl.float32)
    else:
        # Mask pixel 4 y - 3 + jy lies at logit row y + (jy - 2.5) / 4 - 0.5, so a patch needs the
        # 4x4 logits from (y - 2, x - 2) on, and interpolation is a matrix product. Repeating the
        # border is equivalent to clamping the coordinates.
        # [16]
        o_k = tl.arange(0, 16)
        ky, kx = o_k // 4, o_k % 4
        # [P, 16]
        i_row = tl.minimum(tl.maximum(i_y[:, None] + (ky - 2)[None, :], 0), h - 1)
        i_col = tl.minimum(tl.maximum(i_x[:, None] + (kx - 2)[None, :], 0), w - 1)
        b_low = tl.load(p_image[:, None] + i_row * w + i_col, mask=m_p[:, None], other=0)
        # An infinite logit times a weight of zero would be NaN.
        b_low = tl.minimum(tl.maximum(b_low.to(tl.float32), -1e30), 1e30)
        # [16, 64]
        b_wy = 1.0 - tl.abs((jy[None, :] - 2.5) * 0.25 - 0.5 - (ky[:, None] - 2))
        b_wx = 1.0 - tl.abs((jx[None, :] - 2.5) * 0.25 - 0.5 - (kx[:, None] - 2))
        b_weight = tl.maximum(b_wy, 0.0) * tl.maximum(b_wx, 0.0)
        # The weights, products of eighths, are exact in TF32 (11 bits), and so are a half-precision
        # logit and each of three parts of a float32 logit: TF32 products lose nothing.
        b_mask = tl.zeros((BLOCK_P, 64), tl.float32)
        if p_logits.dtype.element_ty.primitive_bitwidth > 16:
            for _ in tl.static_range(2):
                b_top = (b_low.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
                b_mask = tl.dot(b_top, b_weight, b_mask, input_precision="tf32")
                b_low -= b_top
        b_mask = tl.dot(b_low, b_weight, b_mask, input_precision="tf32")
    if MODE == SIGMOID:
        b_mask = tl.sigmoid(b_mask)
    elif MODE == POSITIVE:
        b_mask = (b_mask > 0).to(tl.float32)
    else:
        b_mask = (b_mask != 0).to(tl.float32)
    # Padding is zero after scaling: outside is 0, not `bias`.
    b_mask = tl.where(m_inside, b_mask * scale + bias, 0.0)

    # Column (s, c) is channel c of first-stage pixel (2 y - 1 + sy, 2 x - 1 + sx), s = 3 sy + sx;
    # 9 pixels, padded to 16.
    # [64]
    o_s, o_c = tl.arange(0, 64) // C1, tl.arange(0, 64) % C1
    sy, sx = o_s // 3, o_s % 3
    # [64, 64]
    ty, tx = jy[:, None] - 2 * sy[None, :], jx[:, None] - 2 * sx[None, :]
    m_tap = (ty >= 0) & (ty < 3) & (tx >= 0) & (tx < 3) & (o_s < 9)[None, :]
    b_w1 = tl.load(p_w1 + o_c[None, :] * 9 + ty * 3 + tx, mask=m_tap, other=0.0)
    # [P, 64]
    b_1 = tl.dot(b_mask.to(dtype), b_w1, input_precision=PRECISION)
    b_1 += tl.load(p_b1 + o_c).to(tl.float32)[None, :]

    # [P, 16, 4]
    b_1 = tl.reshape(b_1, (BLOCK_P, 16, C1))
    b_1 -= (tl.sum(b_1, axis=2) / C1)[:, :, None]
    b_var = tl.sum(b_1 * b_1, axis=2) / C1
    b_1 *= tl.rsqrt(b_var + eps)[:, :, None]
    b_1 = tl.reshape(b_1, (BLOCK_P, 64))
    # [P, 64]
    b_1 *= tl.load(p_norm1_w + o_c).to(tl.float32)[None, :]
    b_1 += tl.load(p_norm1_b + o_c).to(tl.float32)[None, :]
    # The second stage pads with zeros: clear the outside after the norm and GELU.
    i_1y, i_1x = 2 * i_y[:, None] - 1 + sy[None, :], 2 * i_x[:, None] - 1 + sx[None, :]
    m_1 = (i_1y >= 0) & (i_1y < H1) & (i_1x >= 0) & (i_1x < W1) & (o_s < 9)[None, :]
    b_1 = tl.where(m_1, _gelu(b_1), 0.0)

    # [16]
    o_o = tl.arange(0, C2)
    # [64, 16]
    p_w2_t = p_w2 + o_o[None, :] * (9 * C1) + o_c[:, None] * 9 + o_s[:, None]
    b_w2 = tl.load(p_w2_t, mask=(o_s < 9)[:, None] & (o_o < C2)[None, :], other=0.0)
    # [P, 16]
    b_2 = tl.dot(b_1.to(dtype), b_w2, input_precision=PRECISION)
    b_2 += tl.load(p_b2 + o_o).to(tl.float32)[None, :]
    b_2 -= (tl.sum(b_2, axis=1) / C2)[:, None]
    b_2 *= tl.rsqrt(tl.sum(b_2 * b_2, axis=1) / C2 + eps)[:, None]
    b_2 *= tl.load(p_norm2_w + o_o).to(tl.float32)[None, :]
    b_2 += tl.load(p_norm2_b + o_o).to(tl.float32)[None, :]
    # [P, 16]
    p_o = p_out + o_p.to(tl.int64)[:, None] * C2 + o_o[None, :]
    tl.store(p_o, _gelu(b_2).to(dtype), mask=m_p[:, None])


@triton.jit(do_not_specialize=["M"])
def norm_gelu_kernel(
    p_x,  # [M, C]
    p_weight,  # [C]
    p_bias,  # [C]
    p_out,  # [M, C], may be p_x
    M,
    C: tl.constexpr,
    eps: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Apply the norm over the channels and GELU."""
    # [BM]
    o_m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    # [BC]
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < C
    # [BM, BC]
    o_x = o_m[:, None] * C + o_c[None, :]
    m_x = (o_m < M)[:, None] & m_c[None, :]
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_x = tl.where(m_c[None, :], b_x - (tl.sum(b_x, axis=1) / C)[:, None], 0.0)
    b_x *= tl.rsqrt(tl.sum(b_x * b_x, axis=1) / C + eps)[:, None]
    b_x *= tl.load(p_weight + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    b_x += tl.load(p_bias + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    tl.store(p_out + o_x, _gelu(b_x).to(p_out.dtype.element_ty), mask=m_x)


def launch(
    logits: Tensor,
    scale: float,
    bias: float,
    weights: MaskDownsampleWeights,
    upsample: int,
    binarize: bool,
) -> Tensor:
    """Run the kernels on arguments of `op.mask_downsample` that have been checked.

    Two stages are one kernel; each further stage is a convolution of PyTorch and a kernel of norm
    and GELU.

    At S = 1024 the third and fourth stage are 0.3 and 1.2 GFLOP of dense convolution, and their
    maps (128 x 128 x 64, 64 x 64 x 256) 2 MB each in half precision, which stay in the L2 cache. So
    the library's implicit GEMM is used, and norm and GELU in place save a launch and a round trip
    of the map for each stage.
    """
    params = choose(weights.proj_weight.dtype, logits.device)
    if not logits.is_floating_point():
        logits = (logits if logits.dtype == torch.bool else logits != 0).view(torch.uint8)
    first, second = (
        DownsampleStage(*(getattr(stage, field.name).contiguous() for field in fields(stage)))
        for stage in weights.stages[:2]
    )
    x = launch_two_stages(
        logits.contiguous(), scale, bias, first, second, params,
        upsample=upsample, binarize=binarize,
    )  # fmt: skip
    for stage in weights.stages[2:]:
        x = convolve(x, stage.weight, stage.bias)
        launch_norm_gelu(
            x, stage.norm_weight.contiguous(), stage.norm_bias.contiguous(), params, out=x
        )
    return project(x, weights)


def launch_two_stages(
    logits: Tensor,
    scale: float,
    bias: float,
    first: DownsampleStage,
    second: DownsampleStage,
    params: Launch,
    *,
    upsample: int,
    binarize: bool,
    out: Tensor | None = None,
) -> Tensor:
    """Run the first two stages: [N, h, w] (uint8 masks) to [N, ceil(S_h/4), ceil(S_w/4), 16]."""
    n, h, w = logits.shape
    h2, w2 = -(-h * upsample // 4), -(-w * upsample // 4)
    if out is None:
        out = first.weight.new_empty(n, h2, w2, C2.value)
    n_out = n * h2 * w2
    if n_out == 0:
        return out
    mode = NON_ZERO if not logits.is_floating_point() else POSITIVE if binarize else SIGMOID
    mask_downsample_kernel[(triton.cdiv(n_out, params.block),)](
        logits,
        first.weight,
        first.bias,
        first.norm_weight,
        first.norm_bias,
        second.weight,
        second.bias,
        second.norm_weight,
        second.norm_bias,
        out,
        scale,
        bias,
        n_out,
        h,
        w,
        h2,
        w2,
        eps=EPS,
        UPSAMPLE=upsample,
        MODE=mode.value,
        BLOCK_P=params.block,
        PRECISION=dot_precision(first.weight.dtype),
        num_warps=params.num_warps,
    )
    return out


def _norm_blocks(channels: int, params: Launch) -> tuple[int, int]:
    block_c = triton.next_power_of_2(channels)
    return max(1, params.norm_elements // block_c), block_c


def launch_norm_gelu(
    x_nhwc: Tensor, weight: Tensor, bias: Tensor, params: Launch, *, out: Tensor | None = None
) -> Tensor:
    """Apply the norm over the last dimension and GELU; `out` may be the contiguous input."""
    if out is None:
        out = torch.empty_like(x_nhwc)
    channels = x_nhwc.shape[-1]
    rows = x_nhwc.numel() // channels
    if rows == 0:
        return out
    block_m, block_c = _norm_blocks(channels, params)
    norm_gelu_kernel[(triton.cdiv(rows, block_m),)](
        x_nhwc,
        weight,
        bias,
        out,
        rows,
        C=channels,
        eps=EPS,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
        num_warps=params.norm_warps,
    )
    return out


_WEIGHTS = ("w1", "b1", "norm1_w", "norm1_b", "w2", "b2", "norm2_w", "norm2_b")


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    found = []
    for dtype, name in TRITON_NAMES.items():
        params = Launch()
        for label, read, upsample, mode in (
            ("logits", "*fp32", 4, SIGMOID),
            ("binarized", "*fp32", 4, POSITIVE),
            ("full-size logits", "*fp32", 1, SIGMOID),
            ("mask", "*u8", 1, NON_ZERO),
        ):
            signature = {"p_logits": read}
            signature |= {f"p_{weight}": f"*{name}" for weight in (*_WEIGHTS, "out")}
            signature |= {"scale": "fp32", "bias": "fp32"}
            signature |= dict.fromkeys(("n_out", "h", "w", "H2", "W2"), "i32")
            pointers = tuple(key for key, kind in signature.items() if kind.startswith("*"))
            found.append(
                Variant(
                    op="mask_downsample",
                    kernel=mask_downsample_kernel,
                    label=f"{name} {label} {params.block}",
                    capability=capability,
                    signature=signature,
                    constants={
                        "eps": EPS,
                        "UPSAMPLE": upsample,
                        "MODE": mode.value,
                        "BLOCK_P": params.block,
                        "PRECISION": dot_precision(dtype),
                    },
                    num_warps=params.num_warps,
                    num_stages=3,
                    has_dot=True,
                    aligned=(*pointers, "h", "w", "H2", "W2"),
                )
            )
        for channels in (64, 256):
            block_m, block_c = _norm_blocks(channels, params)
            found.append(
                Variant(
                    op="mask_downsample",
                    kernel=norm_gelu_kernel,
                    label=f"{name} norm {channels}",
                    capability=capability,
                    signature={
                        "p_x": f"*{name}",
                        "p_weight": f"*{name}",
                        "p_bias": f"*{name}",
                        "p_out": f"*{name}",
                        "M": "i32",
                    },
                    constants={
                        "C": channels,
                        "eps": EPS,
                        "BLOCK_M": block_m,
                        "BLOCK_C": block_c,
                    },
                    num_warps=params.norm_warps,
                    num_stages=3,
                    has_dot=False,
                    aligned=("p_x", "p_weight", "p_bias", "p_out"),
                )
            )
    return found
