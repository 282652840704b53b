"""Mask downsampling: the kernels against the reference, the reference against `sam2`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fastsam2_kernels import dispatch
from fastsam2_kernels.mask_downsample import (
    DownsampleStage,
    MaskDownsampleWeights,
    mask_downsample,
)
from fastsam2_kernels.mask_downsample.reference import mask_downsample_reference
from fastsam2_kernels.mask_downsample.tuning import Launch
from tests.kernels.accuracy import DTYPES, assert_accurate, error, poisoned

pytest.importorskip("triton")
from fastsam2_kernels.mask_downsample.kernel import launch_norm_gelu, launch_two_stages

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCALE, BIAS = 20.0, -10.0
SMALL = Launch(block=32, num_warps=4)


def random_weights(dtype: torch.dtype, stages: int = 4, out: int = 24) -> MaskDownsampleWeights:
    made, c = [], 1
    for _ in range(stages):
        shapes = [(4 * c, c, 3, 3), (4 * c,), (4 * c,), (4 * c,)]
        scales = [(9 * c) ** -0.5, 0.5, 0.5, 0.5]
        tensors = [s * torch.randn(shape) for s, shape in zip(scales, shapes, strict=True)]
        made.append(DownsampleStage(*(t.to(DEVICE, dtype) for t in tensors)))
        c *= 4
    last = [c**-0.5 * torch.randn(out, c, 1, 1), torch.randn(out)]
    return MaskDownsampleWeights(tuple(made), *(t.to(DEVICE, dtype) for t in last))


def cast(weights: MaskDownsampleWeights, dtype: torch.dtype) -> MaskDownsampleWeights:
    return MaskDownsampleWeights.from_flat([w.to(dtype) for w in weights.flat()])


def two_stages(weights: MaskDownsampleWeights, mask: Tensor, **options: bool | int) -> Tensor:
    """Return the reference result of the first two stages, channels last."""
    eye = torch.eye(16, dtype=weights.proj_weight.dtype, device=DEVICE)[..., None, None]
    first = MaskDownsampleWeights(weights.stages[:2], eye, torch.zeros_like(eye[:, 0, 0, 0]))
    out = mask_downsample_reference(mask, SCALE, BIAS, first, **options)
    return out.permute(0, 2, 3, 1)


def check(mask: Tensor, dtype: torch.dtype, upsample: int = 4, binarize: bool = False) -> None:
    """Compare the kernel of the first two stages with the reference."""
    weights = random_weights(dtype, stages=2)
    options: dict[str, int | bool] = {"upsample": upsample, "binarize": binarize}
    exact_mask = mask.double() if mask.is_floating_point() else mask
    expected = two_stages(cast(weights, torch.float64), exact_mask, **options)
    plain = two_stages(weights, mask, **options)
    given = mask if mask.is_floating_point() else mask.view(torch.uint8)
    out = launch_two_stages(
        given, SCALE, BIAS, *weights.stages, SMALL,
        upsample=upsample, binarize=binarize, out=poisoned(plain.contiguous()),
    )  # fmt: skip
    assert_accurate(out, expected, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 16, 16), (2, 7, 11), (1, 1, 1), (3, 2, 5)])
def test_upsampled_logits(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    check(4 * torch.randn(size, device=DEVICE), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_binarized_logits(dtype: torch.dtype) -> None:
    check(torch.randn(2, 9, 12, device=DEVICE), dtype, binarize=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 32, 32), (2, 29, 18), (1, 1, 3)])
def test_masks_of_full_size(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    check(torch.randn(size, device=DEVICE) > 0, dtype, upsample=1)
    check(torch.randn(size, device=DEVICE), dtype, upsample=1)


@pytest.mark.parametrize("logits", [torch.float16, torch.bfloat16])
def test_logits_of_half_precision(logits: torch.dtype) -> None:
    check(torch.randn(1, 8, 8, device=DEVICE).to(logits), torch.float32)


@pytest.mark.parametrize("largest", [1e4, 1e28])
def test_large_logits(largest: float) -> None:
    check(largest * torch.randn(1, 8, 8, device=DEVICE), torch.float32)


@pytest.mark.skipif(not dispatch.interpreting(), reason="tensor cores round by themselves")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensor_cores_lose_nothing_of_a_logit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """The interpreter multiplies in float32; here it rounds operands to TF32."""
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    dot, rounded = builder.create_dot, []

    def create_dot(self, a, b, d, precision, imprecise):  # type: ignore[no-untyped-def]
        if precision.name == "TF32":
            rounded.append(precision)
            a, b = (handle((x.data.view("i4") & -8192).view("f4"), x.dtype) for x in (a, b))
        return dot(self, a, b, d, precision, imprecise)

    monkeypatch.setattr(builder, "create_dot", create_dot)
    check(100 * torch.randn(1, 8, 8, device=DEVICE), dtype)
    assert rounded


def test_infinite_logits() -> None:
    """Like very large ones; plain interpolation would turn their neighbours into NaN."""
    weights = random_weights(torch.float32)
    mask = torch.randn(1, 8, 8, device=DEVICE)
    mask[0, 2, 3], mask[0, 6, 5] = float("inf"), float("-inf")
    out = mask_downsample(mask, SCALE, BIAS, weights, impl="triton")
    mask = mask.clamp(-1e30, 1e30)
    assert_accurate(out, mask_downsample(mask, SCALE, BIAS, weights, impl="reference"))


@settings(max_examples=10, deadline=None)
@given(
    n=st.integers(0, 3),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
    upsample=st.sampled_from([1, 4]),
    binarize=st.booleans(),
)
def test_any_shape(
    n: int, height: int, width: int, dtype: torch.dtype, upsample: int, binarize: bool
) -> None:
    # On maps 2 wide, PyTorch's bfloat16 convolution reads uninitialised memory.
    assume(dtype == torch.float32 or width * upsample >= 8)
    check(torch.randn(n, height, width, device=DEVICE), dtype, upsample, binarize)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 5, 7, 64), (2, 3, 3, 256), (1, 2, 2, 20), (0, 4, 4, 64)])
def test_norm_and_gelu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (3 * torch.randn(shape) + 1).to(DEVICE, dtype)
    weight, bias = torch.randn(2, shape[-1]).to(DEVICE, dtype)

    def reference(t: torch.dtype) -> Tensor:
        return F.gelu(F.layer_norm(x.to(t), shape[-1:], weight.to(t), bias.to(t), 1e-6))

    out = launch_norm_gelu(x, weight, bias, SMALL, out=poisoned(x))
    assert_accurate(out, reference(torch.float64), reference(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stages", [2, 4])
def test_whole(dtype: torch.dtype, stages: int) -> None:
    weights = random_weights(dtype, stages)
    mask = 4 * torch.randn(2, 16, 12, device=DEVICE)
    out = mask_downsample(mask, SCALE, BIAS, weights, impl="triton")
    expected = mask_downsample(mask.double(), SCALE, BIAS, cast(weights, torch.float64))
    plain = mask_downsample(mask, SCALE, BIAS, weights, impl="reference")
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_accurate(out, expected, plain)


def test_views() -> None:
    weights = random_weights(torch.float32)
    mask = torch.randn(3, 12, 32, device=DEVICE)[::2, 2:10, ::2]
    out = mask_downsample(mask, SCALE, BIAS, weights, impl="triton")
    assert_accurate(out, mask_downsample(mask.contiguous(), SCALE, BIAS, weights))


def test_reference_equals_sam2() -> None:
    """In float64, with the preprocessing of `_encode_new_memory`."""
    pytest.importorskip("sam2")
    from sam2.modeling.memory_encoder import MaskDownSampler

    module = MaskDownSampler(embed_dim=32, kernel_size=3, stride=2, padding=1).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    *layers, last = module.encoder
    stages = tuple(
        DownsampleStage(conv.weight, conv.bias, norm.weight, norm.bias)
        for conv, norm in zip(layers[::3], layers[1::3], strict=True)
    )
    weights = MaskDownsampleWeights(stages, last.weight, last.bias)
    logits = 3 * torch.randn(2, 16, 24, dtype=torch.float64)
    large = F.interpolate(logits[:, None], (64, 96), mode="bilinear", align_corners=False)
    with torch.no_grad():
        for binarize, mask in ((False, large.sigmoid()), (True, (large > 0).double())):
            out = mask_downsample(logits, SCALE, BIAS, weights, binarize=binarize)
            assert error(out, module(mask * SCALE + BIAS)) <= 1e-9


@pytest.mark.slow
def test_registration() -> None:
    weights, mask = random_weights(torch.float32), torch.randn(2, 8, 8, device=DEVICE)
    op = torch.ops.fastsam2.mask_downsample.default
    torch.library.opcheck(op, (mask, SCALE, BIAS, weights.flat(), 4, False))
    torch.library.opcheck(op, (mask > 0, SCALE, BIAS, weights.flat(), 1, False))


def test_compiles_whole_and_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mask_downsample, fullgraph=True, backend=counter)
    weights = random_weights(torch.float32)
    for n in (2, 3, 5):
        mask = torch.randn(n, 8, 8, device=DEVICE)
        torch._dynamo.mark_dynamic(mask, 0)
        expected = mask_downsample(mask, SCALE, BIAS, weights)
        torch.testing.assert_close(compiled(mask, SCALE, BIAS, weights), expected)
    assert counter.frame_count == 1


def test_bad_input() -> None:
    mask, weights = torch.randn(1, 8, 8, device=DEVICE), random_weights(torch.float32)
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\)"):
        mask_downsample(mask[None], SCALE, BIAS, weights)
    with pytest.raises(ValueError, match="upsample must be 1 or 4, got 2"):
        mask_downsample(mask, SCALE, BIAS, weights, upsample=2)
    with pytest.raises(TypeError, match="bool"):
        mask_downsample(mask > 0, SCALE, BIAS, weights)
    with pytest.raises(TypeError, match="complex"):
        mask_downsample(mask.to(torch.complex64), SCALE, BIAS, weights)
    mixed = MaskDownsampleWeights(weights.stages, weights.proj_weight.half(), weights.proj_bias)
    with pytest.raises(TypeError, match=r"float16.*float32"):
        mask_downsample(mask, SCALE, BIAS, mixed)
    short = MaskDownsampleWeights(weights.stages[1:], weights.proj_weight, weights.proj_bias)
    with pytest.raises(ValueError, match=r"1 -> 4 -> 16.*\(16, 4, 3, 3\)"):
        mask_downsample(mask, SCALE, BIAS, short)
    narrow = MaskDownsampleWeights(weights.stages[:3], weights.proj_weight, weights.proj_bias)
    with pytest.raises(ValueError, match=r"\(24, 256, 1, 1\)"):
        mask_downsample(mask, SCALE, BIAS, narrow)
    with pytest.raises(ValueError, match=r"\(1, 0, 8\)"):
        mask_downsample(mask[:, :0], SCALE, BIAS, weights)
    with pytest.raises(ValueError, match="meta"):
        mask_downsample(mask.to("meta"), SCALE, BIAS, weights)
    for place, width in ((2, 4), (5, 16), (15, 256), (17, 24)):
        flat = weights.flat()
        flat[place] = flat[place][:3]
        with pytest.raises(ValueError, match=rf"\[{width}\].*\(3,\)"):
            mask_downsample(mask, SCALE, BIAS, MaskDownsampleWeights.from_flat(flat))
    with pytest.raises(ValueError, match="'cuda'"):
        mask_downsample(mask, SCALE, BIAS, weights, impl="cuda")  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 4])
def test_real_size(dtype: torch.dtype, n: int) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("needs a GPU")
    weights = random_weights(dtype, out=256)
    mask = 4 * torch.randn(n, 256, 256, device=DEVICE)
    out = mask_downsample(mask, SCALE, BIAS, weights)
    expected = mask_downsample(mask.double(), SCALE, BIAS, cast(weights, torch.float64))
    assert_accurate(out, expected, mask_downsample(mask, SCALE, BIAS, weights, impl="reference"))
