"""memory_keys: the kernel against the float64 reference, the reference against `sam2`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsam2_kernels.memory_keys import memory_keys
from fastsam2_kernels.memory_keys.cpu import memory_keys_cpu
from fastsam2_kernels.memory_keys.reference import memory_keys_reference
from tests.kernels.accuracy import DTYPES, assert_accurate, poisoned

pytest.importorskip("triton")
from fastsam2_kernels.memory_keys.kernel import launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(
    reads: int, tokens: int, dtype: torch.dtype, *, layers: int = 2, dim: int = 64, width: int = 16
) -> Inputs:
    """Return random arguments; the second read, if any, is padding."""
    slots = torch.randint(0, 5, (reads,), dtype=torch.int32, device=DEVICE)
    slots[1:2] = -1
    times = torch.randint(0, 7, (reads,), dtype=torch.int32, device=DEVICE)
    angle = 100 * torch.randn(tokens, dim // 2, device=DEVICE)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=DEVICE).to(dtype)

    return (
        random(5, tokens, width),
        random(tokens, width),
        random(7, width),
        random(layers, dim, width),
        random(layers, dim),
        angle.cos(),
        angle.sin(),
        slots,
        times,
    )


def double(arguments: Inputs) -> Inputs:
    return tuple(x.double() if x.is_floating_point() else x for x in arguments)  # type: ignore[return-value]


def check(arguments: Inputs) -> None:
    plain = memory_keys_reference(*arguments)
    out = launch(*arguments, out=poisoned(plain))
    read = arguments[7] >= 0
    assert out[:, ~read].isnan().all(), "padding is not written"
    exact = memory_keys_reference(*double(arguments))
    assert_accurate(out[:, read], exact[:, read], plain[:, read])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("reads", "tokens"), [(3, 64), (2, 49), (1, 1), (0, 9), (4, 100)])
def test_kernel(dtype: torch.dtype, reads: int, tokens: int) -> None:
    check(inputs(reads, tokens, dtype))


@pytest.mark.parametrize("dim", [128, 256])
def test_widths_of_the_models(dim: int) -> None:
    check(inputs(1, 70, torch.float32, layers=4, dim=dim, width=64))


@pytest.mark.parametrize("stored", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_latents_of_another_dtype(stored: torch.dtype, dtype: torch.dtype) -> None:
    """Every path converts latents to the dtype of the weights before anything else."""
    latents, *rest = inputs(3, 49, dtype)
    latents = latents.to(stored)
    converted = latents.to(dtype)
    read = rest[-2] >= 0
    for path in (memory_keys_reference, memory_keys_cpu, launch):
        device = "cpu" if path is memory_keys_cpu else DEVICE
        x, same, *others = (x.to(device) for x in (latents, converted, *rest))
        out, expected = path(x, *others), path(same, *others)
        assert out.dtype == dtype
        assert torch.equal(out[:, read], expected[:, read])


def test_offsets_into_a_large_pool() -> None:
    """Slots past 2^31 elements; untouched pages of the pool take no physical memory."""
    latents, *parameters, slots, times = inputs(3, 49, torch.float32)
    pool = torch.empty(
        2**31 // latents[0].numel() + 6, *latents.shape[1:], dtype=torch.bfloat16, device=DEVICE
    )
    pool[-len(latents) :] = latents
    moved = torch.where(slots < 0, -1, slots + len(pool) - len(latents)).int()
    out = launch(pool, *parameters, moved, times)
    expected = launch(latents.bfloat16(), *parameters, slots, times)
    assert torch.equal(out[:, slots >= 0], expected[:, slots >= 0])


@settings(max_examples=10, deadline=None)
@given(
    reads=st.integers(0, 4),
    tokens=st.integers(1, 130),
    layers=st.integers(1, 3),
    dim=st.sampled_from([32, 64]),
    width=st.sampled_from([16, 32]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(
    reads: int, tokens: int, layers: int, dim: int, width: int, dtype: torch.dtype
) -> None:
    check(inputs(reads, tokens, dtype, layers=layers, dim=dim, width=width))


def test_reference_equals_sam2() -> None:
    """In float64, against projection and rotation of adjacent channel pairs."""
    pytest.importorskip("sam2")
    from sam2.modeling.position_encoding import apply_rotary_enc, compute_axial_cis

    side, dim = 6, 64
    latents, pos, tpos, weight, bias, _, _, slots, times = double(
        inputs(3, side * side, torch.float32, dim=dim)
    )
    cis = compute_axial_cis(dim, side, side).to(DEVICE, torch.complex128)
    halves = torch.cat((torch.arange(0, dim, 2), torch.arange(1, dim, 2)))
    read = slots >= 0
    out = memory_keys_reference(
        latents, pos, tpos, weight[:, halves], bias[:, halves], cis.real, cis.imag, slots, times
    )[:, read]
    for layer in range(len(weight)):
        tokens = latents[slots[read].long()] + pos + tpos[times[read].long()][:, None]
        projected = tokens @ weight[layer].mT + bias[layer]
        turned, _ = apply_rotary_enc(projected[:, None], projected[:, None], cis)
        # sam2 rounds the rotation to float32.
        torch.testing.assert_close(
            out[layer], turned[:, 0].double()[..., halves], atol=1e-5, rtol=1e-6
        )


def test_registered_op() -> None:
    torch.library.opcheck(torch.ops.fastsam2.memory_keys, inputs(3, 9, torch.float32))


def test_compiles_once_for_any_number_of_reads() -> None:
    compiled = torch.compile(memory_keys, fullgraph=True, backend="aot_eager", dynamic=True)
    # No two sizes of the first call are equal: dynamo would assume that they stay equal.
    for reads in (6, 7, 10):
        arguments = inputs(reads, 9, torch.float32)
        with torch._dynamo.config.patch(error_on_recompile=reads > 6):
            torch.testing.assert_close(compiled(*arguments), memory_keys_reference(*arguments))


@pytest.mark.parametrize(
    ("place", "change", "error", "match"),
    [
        (0, lambda x: x[0], ValueError, r"\(9, 16\)"),
        (0, lambda x: x.int(), TypeError, "floating"),
        (1, lambda x: x.half(), TypeError, "float16"),
        (3, lambda x: x.mT, ValueError, "weight"),
        (4, lambda x: x[:, ::2], ValueError, "bias"),
        (5, lambda x: x.double(), TypeError, "float64"),
        (7, lambda x: x.long(), TypeError, "int64"),
        (8, lambda x: x[:1], ValueError, r"\(1,\)"),
        (2, lambda x: x.to("meta"), ValueError, "meta"),
    ],
)
def test_bad_input(place, change, error, match) -> None:  # type: ignore[no-untyped-def]
    arguments = list(inputs(3, 9, torch.float32))
    arguments[place] = change(arguments[place])
    with pytest.raises(error, match=match):
        memory_keys(*arguments)


def test_triton_raises_where_the_kernel_does_not_fit() -> None:
    with pytest.raises(ValueError, match="96"):
        memory_keys(*inputs(2, 9, torch.float32, dim=96), impl="triton")
    with pytest.raises(TypeError, match="float64"):
        memory_keys(*inputs(2, 9, torch.float64), impl="triton")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_real_size(dtype: torch.dtype) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("the interpreter would take minutes")
    check(inputs(7, 4096, dtype, layers=4, dim=256, width=64))
