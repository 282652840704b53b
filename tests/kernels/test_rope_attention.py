"""RoPE self-attention: the kernels against the reference, the reference against `sam2`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsam2_kernels import dispatch
from fastsam2_kernels.launch_config import CAPABILITIES
from fastsam2_kernels.rope_attention import rope_attention
from fastsam2_kernels.rope_attention.reference import rope_attention_reference
from fastsam2_kernels.rope_attention.tuning import (
    DIMS,
    Launch,
    choose,
    launch_for,
)
from tests.kernels.accuracy import DTYPES, assert_accurate, error, poisoned

pytest.importorskip("triton")
from fastsam2_kernels.rope_attention.kernel import launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]


def inputs(
    n: int,
    length: int,
    dim: int,
    dtype: torch.dtype,
    *,
    size: float = 1.0,
    packed: bool = False,
) -> Inputs:
    """Return random arguments; `packed` tensors are views of one projection."""
    if packed:
        q, k, v = (size * torch.randn(n, length, 3 * dim)).to(DEVICE, dtype).chunk(3, -1)
    else:
        q, k, v = (size * torch.randn(3, n, length, dim)).to(DEVICE, dtype)
    angle = 100 * torch.randn(length, dim // 2).to(DEVICE)
    return q, k, v, angle.cos(), angle.sin(), dim**-0.5


def exact(arguments: Inputs) -> Tensor:
    q, k, v, cos, sin, scale = arguments
    return rope_attention_reference(q.double(), k.double(), v.double(), cos, sin, scale)


def check(arguments: Inputs, config: Launch | None = None) -> float:
    """Compare the kernels with the reference; returns the error."""
    out = poisoned(torch.empty_like(arguments[0].contiguous()))
    out = launch(*arguments, out=out, params=config)
    expected = exact(arguments)
    assert out.dtype == arguments[0].dtype
    assert_accurate(out, expected, rope_attention_reference(*arguments))
    return error(out, expected)


def split(splits: int, dtype: torch.dtype = torch.float32) -> Launch:
    """Return a launch that fits an A100 and an H100, and takes few steps in the interpreter."""
    small = dtype == torch.float32 and DEVICE.type == "cuda"
    return Launch(32, 16, 4, 2, splits) if small else Launch(128, 64, 8, 2, splits)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    ("n", "length", "splits"),
    [
        (1, 256, 1),
        (2, 256, 2),
        (2, 201, 3),
        (1, 63, 1),
        (1, 1, 2),
        (3, 65, 2),
    ],
)
def test_kernels(dtype: torch.dtype, dim: int, n: int, length: int, splits: int) -> None:
    check(inputs(n, length, dim, dtype), split(splits, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_of_one_projection(dtype: torch.dtype) -> None:
    arguments = inputs(2, 130, 128, dtype, packed=True)
    assert not arguments[0].is_contiguous()
    check(arguments, split(2, dtype))


def test_queries_shared_by_the_batch() -> None:
    q, k, v, cos, sin, scale = inputs(3, 64, 128, torch.float32)
    check((q[:1].expand(3, -1, -1), k[:1].expand(3, -1, -1), v, cos, sin, scale), split(1))


@pytest.mark.parametrize("splits", [1, 3])
def test_reads_nothing_past_the_end(splits: int) -> None:
    """Rows past the end of the sequence are NaN, which would spread to the result."""
    q, k, v, cos, sin, scale = inputs(1, 256, 128, torch.float32)
    length = 150
    for x in (q, k, v):
        x[:, length:] = float("nan")
    q, k, v = q[:, :length], k[:, :length], v[:, :length]
    check((q, k, v, cos[:length], sin[:length], scale), split(splits))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_large_logits(dtype: torch.dtype, splits: int) -> None:
    """Logits of tens of thousands: exponentials neither overflow nor vanish in any split."""
    arguments = inputs(1, 192, 256, dtype, size=32.0)
    q, k, _, _, _, scale = arguments
    q.mul_(4.0)
    largest = float((scale * q.double() @ k.double().mT).abs().max())
    assert largest > 1e4
    out = launch(*arguments, out=poisoned(q), params=split(splits, dtype))
    expected, plain = exact(arguments), rope_attention_reference(*arguments)
    # Rounding of the largest float32 logit; the weight changes by its exponential.
    rounding = torch.finfo(torch.float32).eps / 2 * largest
    assert error(out, expected) <= max(2 * error(plain, expected), rounding)


def test_equal_logits_give_the_mean() -> None:
    q, k, v, cos, sin, scale = inputs(1, 77, 128, torch.float32)
    out = launch(torch.zeros_like(q), k, v, cos, sin, scale, params=split(3))
    torch.testing.assert_close(out, v.mean(1, keepdim=True).expand_as(v), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(0, 3),
    length=st.integers(0, 150),
    dim=st.sampled_from(DIMS),
    dtype=st.sampled_from(DTYPES),
    splits=st.integers(1, 5),
    block_n=st.sampled_from([32, 64, 128]),
    packed=st.booleans(),
)
def test_any_shape(
    n: int,
    length: int,
    dim: int,
    dtype: torch.dtype,
    splits: int,
    block_n: int,
    packed: bool,
) -> None:
    # Float32 products of a larger tile would not fit a GPU.
    if DEVICE.type == "cuda" and dtype == torch.float32:
        block_n = 16
    block_m = 32 if DEVICE.type == "cuda" and dtype == torch.float32 else 64
    config = Launch(block_m, min(block_n, 32 if DEVICE.type == "cuda" else 128), 8, 2, splits)
    check(inputs(n, length, dim, dtype, packed=packed), config)


@pytest.mark.parametrize("impl", ["auto", "triton", "reference"])
def test_public_function(impl: dispatch.Impl) -> None:
    arguments = inputs(2, 100, 128, torch.float32, packed=True)
    out = rope_attention(*arguments, impl=impl)
    assert out.is_contiguous()
    assert_accurate(out, exact(arguments))


@pytest.mark.parametrize("n", [0, 2])
def test_no_rows(n: int) -> None:
    arguments = inputs(n, 0 if n else 5, 128, torch.float32)
    for impl in ("auto", "triton", "reference"):
        assert rope_attention(*arguments, impl=impl).shape == arguments[0].shape


def test_float64_is_not_rounded() -> None:
    q, k, v, cos, sin, scale = inputs(1, 50, 128, torch.float64)
    out = rope_attention(q, k, v, cos, sin, scale)
    torch.testing.assert_close(out, exact((q, k, v, cos, sin, scale)), atol=1e-14, rtol=0)
    with pytest.raises(TypeError, match="float64"):
        rope_attention(q, k, v, cos, sin, scale, impl="triton")


def test_registration() -> None:
    arguments = inputs(2, 33, 128, torch.float32, packed=True)
    torch.library.opcheck(torch.ops.fastsam2.rope_attention.default, arguments)


def test_compiles_whole() -> None:
    arguments = inputs(2, 33, 128, torch.float32)
    compiled = torch.compile(rope_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), rope_attention(*arguments))


def test_reference_equals_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, against the module, with its adjacent channel pairs reordered into halves."""
    pytest.importorskip("sam2")
    from sam2.modeling.sam.transformer import RoPEAttention

    # sam2 rounds the rotation to float32 for any input.
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    dim, side = 256, 6
    module = RoPEAttention(dim, num_heads=1, feat_sizes=(side, side))
    module = module.cpu().double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, side * side, dim, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x, x, x)
        halves = torch.cat((torch.arange(0, dim, 2), torch.arange(1, dim, 2)))
        q, k = module.q_proj(x)[..., halves], module.k_proj(x)[..., halves]
        angle = module.freqs_cis
        cos, sin = angle.real.contiguous(), angle.imag.contiguous()
        out = rope_attention_reference(q, k, module.v_proj(x), cos, sin, dim**-0.5)
        torch.testing.assert_close(module.out_proj(out), expected, atol=1e-12, rtol=1e-12)


def test_reference_has_gradients() -> None:
    q, k, v, cos, sin, scale = inputs(1, 20, 128, torch.float64)
    for x in (q, k, v):
        x.requires_grad_()
    rope_attention(q, k, v, cos, sin, scale, impl="reference").square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in (q, k, v))


def bad_inputs() -> dict[str, tuple[dict[int, object], type[Exception], str]]:
    q, _, _, cos, _, _ = inputs(2, 6, 128, torch.float32)
    return {
        "axes": ({0: q[0]}, ValueError, r"\(6, 128\)"),
        "keys": ({1: q[:, :4]}, ValueError, r"\(2, 4, 128\)"),
        "values": ({2: q[:1]}, ValueError, r"\(1, 6, 128\)"),
        "width": (dict.fromkeys(range(3), q[..., :96]), ValueError, "96"),
        "table": ({4: cos[:3]}, ValueError, r"\(3, 64\)"),
        "dtypes": ({2: q.half()}, TypeError, "float16"),
        "integers": ({i: q.int() for i in range(3)}, TypeError, "int32"),
        "table dtype": ({3: cos.half()}, TypeError, "float16"),
        "device": ({1: q.to("meta")}, ValueError, "meta"),
        "rows": ({2: q.mT.contiguous().mT}, ValueError, r"\(768, 1, 6\)"),
        "table rows": ({3: cos.mT.contiguous().mT}, ValueError, r"\(1, 6\)"),
        "scale": ({5: 0.0}, ValueError, "0.0"),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input(name: str) -> None:
    arguments = list(inputs(2, 6, 128, torch.float32))
    changes, kind, message = bad_inputs()[name]
    for i, value in changes.items():
        arguments[i] = value
    with pytest.raises(kind, match=message):
        rope_attention(*arguments)


def test_unknown_impl() -> None:
    with pytest.raises(ValueError, match="'cuda'"):
        rope_attention(*inputs(1, 4, 128, torch.float32), impl="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", [*CAPABILITIES, 87, 103, 120])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_choice(capability: int, dtype: torch.dtype, dim: int) -> None:
    assert choose(64, 4096, dim, dtype, capability).splits == 1, "a large batch fills the GPU"
    assert choose(1, 1, dim, dtype, capability).splits == 1


def test_one_sequence_fills_a_large_gpu() -> None:
    chosen = choose(1, 4096, 256, torch.bfloat16, 90, multiprocessors=132)
    assert chosen == Launch(128, 32, 8, 4, splits=4)
    assert chosen.splits * 4096 // chosen.block_m == 128


def test_launch_in_the_interpreter() -> None:
    chosen = launch_for(torch.device("cpu"), 1, 4096, 256, torch.bfloat16)
    assert chosen.splits > 1, "so that tests run the combine kernel"


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("length", [4096, 4095])
def test_real_size(dtype: torch.dtype, dim: int, n: int, length: int) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("needs a GPU")
    arguments = inputs(n, length, dim, dtype, packed=True)
    check(arguments)
    torch.library.opcheck(torch.ops.fastsam2.rope_attention.default, arguments)
