"""Masks at video size: the kernels and the CPU's path against plain interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fastsam2.data.rle import rle_counts
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.launches import CAPABILITIES
from fastsam2_kernels.mask_output import mask_output
from fastsam2_kernels.mask_output.tuning import Launch

pytest.importorskip("triton")
from fastsam2_kernels.mask_output.kernel import launch_bits, launch_bool, launch_runs, variants

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMPLS: list[Impl] = ["auto", "triton", "reference"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: (h, w) to (H, W): larger, smaller, the same, one to one pixel, odd.
SIZES = [
    ((16, 16), (45, 61)),
    ((16, 16), (64, 64)),
    ((20, 30), (7, 9)),
    ((9, 5), (9, 5)),
    ((1, 1), (1, 1)),
    ((1, 3), (10, 1)),
]


def blobs(n: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth logits, whose masks have areas and borders."""
    coarse = torch.randn(n, 1, 4, 4)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[:, 0]
    return (10 * smooth).to(DEVICE, dtype)


def check(logits: Tensor, size: tuple[int, int], threshold: float, impl: Impl) -> Tensor:
    """All three formats; returns the mask.

    Pixels may differ from plain interpolation only where it is within rounding of the threshold:
    a few units in the last place of the largest of the logits that it lies between.
    """
    exact = F.interpolate(logits.double()[:, None], size, mode="bilinear", align_corners=False)
    mask = mask_output(logits, size, threshold, impl=impl)
    assert mask.dtype == torch.bool
    assert mask.shape == (len(logits), *size)
    wrong = mask != (exact[:, 0] > threshold)
    if wrong.any():
        rounding = 8 * torch.finfo(torch.float32).eps * logits.double().abs().max()
        assert (exact[:, 0] - threshold).abs()[wrong].max() <= rounding
    # Bits and runs tell the same, without a loss.
    bits = mask_output(logits, size, threshold, format="bits", impl=impl)
    unpacked = np.unpackbits(bits.cpu().numpy(), axis=-1, count=size[1])
    np.testing.assert_array_equal(unpacked, mask.cpu().numpy())
    runs = mask_output(logits, size, threshold, format="rle", impl=impl)
    assert runs.tolist() == [rle_counts(m) for m in mask.cpu().numpy()]
    return mask


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_sizes(low: tuple[int, int], size: tuple[int, int], dtype: torch.dtype, impl: Impl) -> None:
    mask = check(blobs(3, low, dtype), size, 0.0, impl)
    if mask.numel() > 1000:
        assert 0.1 < mask.float().mean() < 0.9


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("threshold", [-3.0, 0.5])
def test_threshold(threshold: float, impl: Impl) -> None:
    check(blobs(2, (12, 10)), (50, 43), threshold, impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_whole_masks(impl: Impl) -> None:
    """All set, none set, and exactly at the threshold, which is not set."""
    logits = torch.tensor([1e4, -1e4, 0.0], device=DEVICE)[:, None, None].expand(3, 8, 8)
    mask = check(logits, (21, 30), 0.0, impl)
    assert mask.float().mean((1, 2)).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("impl", IMPLS)
def test_noise_makes_many_runs(impl: Impl) -> None:
    check(torch.randn(2, 40, 30, device=DEVICE), (40, 30), 0.0, impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_not_a_number_is_not_set(impl: Impl) -> None:
    logits = torch.full((1, 6, 6), 3.0, device=DEVICE)
    logits[0, 2, 3] = float("nan")
    mask = mask_output(logits, (12, 12), impl=impl)
    assert not mask[0, 4:6, 6:8].any()
    assert mask[0, :2].all()


@pytest.mark.parametrize("impl", IMPLS)
def test_no_masks(impl: Impl) -> None:
    none = torch.zeros(0, 4, 4, device=DEVICE)
    assert mask_output(none, (9, 10), impl=impl).shape == (0, 9, 10)
    assert mask_output(none, (9, 10), format="bits", impl=impl).shape == (0, 9, 2)
    assert mask_output(none, (9, 10), format="rle", impl=impl).tolist() == []


@pytest.mark.parametrize("impl", IMPLS)
def test_views_are_taken(impl: Impl) -> None:
    check(blobs(4, (20, 24))[::2, 3:17, ::2], (33, 30), 0.0, impl)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(0, 3),
    low=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    impl=st.sampled_from(IMPLS),
)
def test_any_shape(
    n: int, low: tuple[int, int], size: tuple[int, int], dtype: torch.dtype, impl: Impl
) -> None:
    check(blobs(n, low, dtype), size, 0.0, impl)


def test_everything_is_written() -> None:
    """With small programs, into buffers that held something else."""
    small = Launch(8, 32, 8, 4, 16, 8, 1)
    logits, size = blobs(2, (9, 11)), (30, 37)
    mask = mask_output(logits, size, impl="reference")
    out = launch_bool(logits, size, 0.0, small, out=~mask)
    assert torch.equal(out, mask)
    bits = mask_output(logits, size, format="bits", impl="reference")
    assert torch.equal(launch_bits(logits, size, 0.0, small, out=~bits), bits)
    runs = launch_runs(logits, size, 0.0, small)
    assert runs.tolist() == mask_output(logits, size, format="rle", impl="reference").tolist()


def test_float64_is_not_rounded() -> None:
    logits = torch.full((1, 2, 2), 1e-300, dtype=torch.float64, device=DEVICE)
    assert mask_output(logits, (5, 5)).all()
    with pytest.raises(TypeError, match="float64"):
        mask_output(logits, (5, 5), impl="triton")


def test_registration() -> None:
    logits = blobs(2, (6, 7))
    for packed in (False, True):
        torch.library.opcheck(torch.ops.fastsam2.mask_output.default, (logits, 15, 17, 0.0, packed))
    torch.library.opcheck(torch.ops.fastsam2.mask_output_runs.default, (logits, 15, 17, 0.0))


def test_compiles_whole_and_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mask_output, fullgraph=True, backend=counter)
    for n in (2, 3, 5):
        logits = blobs(n, (6, 7))
        torch._dynamo.mark_dynamic(logits, 0)
        assert torch.equal(compiled(logits, (15, 17)), mask_output(logits, (15, 17)))
    assert counter.frame_count == 1


def test_bad_input() -> None:
    logits = torch.zeros(1, 4, 4)
    with pytest.raises(TypeError, match="int32"):
        mask_output(logits.int(), (8, 8))
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\)"):
        mask_output(logits[None], (8, 8))
    with pytest.raises(ValueError, match=r"\(1, 0, 4\)"):
        mask_output(logits[:, :0], (8, 8))
    with pytest.raises(ValueError, match="0 x 8"):
        mask_output(logits, (0, 8))
    with pytest.raises(ValueError, match="'png'"):
        mask_output(logits, (8, 8), format="png")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="'cuda'"):
        mask_output(logits, (8, 8), impl="cuda")  # type: ignore[call-overload]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_variants_name_every_argument(capability: int) -> None:
    found = variants(capability)
    assert len({(v.kernel.__name__, v.label) for v in found}) == len(found)
    for variant in found:
        assert {*variant.signature, *variant.constants} == set(variant.kernel.arg_names)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1080, 1920), (1023, 577)])
def test_real_size(dtype: torch.dtype, size: tuple[int, int]) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("needs a GPU")
    check(blobs(5, (256, 256), dtype), size, 0.0, "auto")
