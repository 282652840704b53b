"""The ConvNeXt block: the kernels against the reference, the reference against `sam2`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fastsam2_kernels import dispatch
from fastsam2_kernels.cx_block import CHANNELS, cx_block
from fastsam2_kernels.cx_block.reference import cx_block_reference
from fastsam2_kernels.cx_block.tuning import Launch, choose
from tests.kernels.accuracy import DTYPES, assert_accurate, poisoned

pytest.importorskip("triton")
import triton
import triton.language as tl

from fastsam2_kernels.cx_block.kernel import gelu, launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-6
NAMES = ("dw_weight", "dw_bias", "norm_weight", "norm_bias", "w1", "b1", "w2", "b2")


def inputs(n: int, height: int, width: int, c: int, dtype: torch.dtype) -> list[Tensor]:
    """Return x and the eight parameters, scaled to keep activations around 1."""
    shapes = [(n, height, width, c), (c, 7, 7), (c,), (c,), (c,), (4 * c, c), (4 * c,), (c, 4 * c)]
    scales = [1, 0.2, 0.5, 0.5, 0.5, c**-0.5, 0.5, c**-0.5, 0.5]
    made = [s * torch.randn(shape) for s, shape in zip(scales, [*shapes, (c,)], strict=True)]
    return [x.to(DEVICE, dtype) for x in made]


def call(function: object, arguments: list[Tensor], **options: object) -> Tensor:
    """Insert eps in its position."""
    out = function(*arguments[:5], EPS, *arguments[5:], **options)  # type: ignore[operator]
    assert isinstance(out, Tensor)
    return out


def check(arguments: list[Tensor], config: Launch | None = None) -> None:
    out = call(launch, arguments, out=poisoned(arguments[0]), params=config)
    expected = call(cx_block_reference, [x.double() for x in arguments])
    assert_accurate(out, expected, call(cx_block_reference, arguments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("c", CHANNELS)
@pytest.mark.parametrize(("n", "height", "width"), [(1, 16, 16), (2, 9, 13), (1, 1, 1), (3, 2, 7)])
def test_kernels(dtype: torch.dtype, c: int, n: int, height: int, width: int) -> None:
    check(inputs(n, height, width, c, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shipped_tiles(dtype: torch.dtype) -> None:
    """Several programs in each direction, as launched on a GPU."""
    check(inputs(1, 9, 10, 128, dtype), choose(128, dtype, 90))


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    n=st.integers(0, 3),
    height=st.integers(0, 12),
    width=st.integers(1, 12),
    c=st.sampled_from(CHANNELS),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(n: int, height: int, width: int, c: int, dtype: torch.dtype) -> None:
    check(inputs(n, height, width, c, dtype))


@triton.jit
def gelu_kernel(x, out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    o_x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + o_x, gelu(tl.load(x + o_x)))


def test_gelu() -> None:
    """Errors of 3 half-ulps of x, of which a GPU's `exp2` may take half."""
    small = torch.logspace(-30, 2, 2**12, device=DEVICE)
    x = torch.cat([torch.linspace(-12, 12, 2**15, device=DEVICE), small, -small])
    out = poisoned(x)
    gelu_kernel[(len(x) // 2**12,)](x, out, BLOCK=2**12)
    exact = x.double() * torch.special.ndtr(x.double())
    assert bool(((out - exact).abs() <= 3 * 2**-24 * x.double().abs()).all())
    assert bool((out[x > 13] == x[x > 13]).all())
    assert not out[x < -13].any()


@pytest.mark.parametrize("scale", [1e4, 1e-6])
def test_extreme_activations(scale: float) -> None:
    arguments = inputs(1, 8, 8, 128, torch.float32)
    arguments[0] *= scale
    check(arguments)


def test_images_of_a_batch_are_independent() -> None:
    """Rows beyond the border of an image belong to its neighbours in memory."""
    arguments = inputs(3, 5, 6, 128, torch.float32)
    arguments[0][0], arguments[0][2] = float("nan"), float("nan")
    out = call(launch, arguments)
    alone = [arguments[0][1:2].contiguous(), *arguments[1:]]
    torch.testing.assert_close(out[1:2], call(cx_block_reference, alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "triton", "reference"])
def test_weights_in_the_order_that_loads_fastest(impl: dispatch.Impl) -> None:
    arguments = inputs(1, 6, 6, 128, torch.float32)
    expected = call(cx_block, arguments, impl="reference")
    arguments[1] = arguments[1].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    torch.testing.assert_close(call(cx_block, arguments, impl=impl), expected, atol=1e-5, rtol=1e-5)


def test_registration() -> None:
    arguments = inputs(2, 4, 4, 128, torch.float32)
    torch.library.opcheck(
        torch.ops.fastsam2.cx_block.default, (*arguments[:5], EPS, *arguments[5:])
    )


def test_compiles_whole_and_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(cx_block, fullgraph=True, backend=counter)
    first = inputs(2, 4, 4, 128, torch.float32)
    for n in (2, 3, 5):
        arguments = [inputs(n, 4, 4, 128, torch.float32)[0], *first[1:]]
        torch._dynamo.mark_dynamic(arguments[0], 0)
        torch.testing.assert_close(call(compiled, arguments), call(cx_block, arguments))
    assert counter.frame_count == 1


def test_reference_equals_sam2() -> None:
    pytest.importorskip("sam2")
    from sam2.modeling.memory_encoder import CXBlock

    block = CXBlock(128, kernel_size=7, padding=3).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 128, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        gamma, last = block.gamma, block.pwconv2
        out = cx_block_reference(
            x.permute(0, 2, 3, 1).contiguous(),
            block.dwconv.weight[:, 0],
            block.dwconv.bias,
            block.norm.weight,
            block.norm.bias,
            block.norm.eps,
            block.pwconv1.weight,
            block.pwconv1.bias,
            gamma[:, None] * last.weight,
            gamma * last.bias,
        )
        expected = block(x)
    torch.testing.assert_close(out.permute(0, 3, 1, 2), expected, atol=1e-9, rtol=1e-9)


def test_float64_uses_the_reference() -> None:
    arguments = inputs(1, 4, 4, 128, torch.float64)
    assert call(cx_block, arguments).dtype == torch.float64
    with pytest.raises(TypeError, match="float64"):
        call(cx_block, arguments, impl="triton")


BAD = {
    "axes": ("x", lambda x: x[0], ValueError, r"\(4, 4, 128\)"),
    "channels": ("x", lambda x: x[..., :96].contiguous(), ValueError, "96"),
    "layout": ("x", lambda x: x.transpose(1, 2), ValueError, "contiguous"),
    "integers": ("x", lambda x: x.int(), TypeError, "int32"),
    "kernel": ("dw_weight", lambda x: x[:, :5], ValueError, r"\(128, 5, 7\)"),
    "kernel layout": ("dw_weight", lambda x: x.transpose(1, 2), ValueError, "contiguous"),
    "bias": ("b1", lambda x: x[:3], ValueError, r"b1 .*\(3,\)"),
    "dtype": ("w1", lambda x: x.half(), TypeError, "w1 .*float16"),
    "device": ("norm_bias", lambda x: x.to("meta"), ValueError, "meta"),
    "order": ("w2", lambda x: x.T.contiguous().T, ValueError, "w2 .*contiguous"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    argument, change, kind, message = BAD[name]
    arguments = dict(zip(("x", *NAMES), inputs(2, 4, 4, 128, torch.float32), strict=True))
    arguments[argument] = change(arguments[argument])
    with pytest.raises(kind, match=message):
        cx_block(**arguments, eps=EPS)  # type: ignore[arg-type]


def test_unknown_impl() -> None:
    with pytest.raises(ValueError, match="'cuda'"):
        call(cx_block, inputs(1, 4, 4, 128, torch.float32), impl="cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("c", CHANNELS)
@pytest.mark.parametrize(("n", "side"), [(1, 64), (4, 64), (2, 63)])
def test_real_size(dtype: torch.dtype, c: int, n: int, side: int) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("needs a GPU")
    check(inputs(n, side, side, c, dtype))
