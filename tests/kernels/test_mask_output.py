"""Masks, labels, areas and boxes at video size: implementations against plain interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsam2.data.rle import decode_rle
from fastsam2.modeling.sam2_utils import without_overlap
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.launch_config import CAPABILITIES
from fastsam2_kernels.mask_output import (
    MaskOutput,
    areas_of,
    boxes_of,
    mask_output,
    pack_bits,
    run_lengths,
    unpack_bits,
)
from fastsam2_kernels.mask_output import bits as bits_module
from fastsam2_kernels.mask_output.tuning import Launch

pytest.importorskip("triton")
from fastsam2_kernels.mask_output.kernel import launch, variants

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMPLS: list[Impl] = ["auto", "triton", "reference"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: (h, w) to (H, W): larger, smaller, the same, one to one pixel, odd.
SIZES = [
    ((16, 16), (45, 61)),
    ((16, 16), (32, 64)),
    ((20, 30), (7, 9)),
    ((9, 5), (9, 5)),
    ((1, 1), (1, 1)),
    ((1, 3), (10, 1)),
]


def blobs(n: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return smooth random logits, whose masks have areas and borders."""
    coarse = torch.randn(n, 1, 4, 4)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[:, 0]
    return (10 * smooth).to(DEVICE, dtype)


def rounding(logits: Tensor) -> float:
    """Return the error bound of interpolation in float32, derived from its operations.

    A value takes four operations per axis, and the threshold is rounded: 4.5 eps of the largest
    logit. A coordinate, below h, takes three operations, and its error moves the value by at most
    the largest step between neighbours.
    """
    exact = logits.double()
    steps = sum(
        exact.shape[axis] * float(exact.diff(dim=axis).abs().max())
        for axis in (1, 2)
        if exact.shape[axis] > 1
    )
    return torch.finfo(torch.float32).eps * (4.5 * float(exact.abs().max()) + 1.5 * steps)


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def masks_of(logits: Tensor, size: tuple[int, int], *args: Any, **kwargs: Any) -> Tensor:
    """Unpack the masks of `mask_output`, bool `[N, H, W]`."""
    return unpack_bits(mask_output(logits, size, *args, **kwargs).bits, size[1])


def check_mask(mask: Tensor, logits: Tensor, threshold: float) -> None:
    """Check that pixels differ from exact interpolation only within rounding of the threshold."""
    distance = upsampled(logits.double(), (mask.shape[1], mask.shape[2])) - threshold
    wrong = mask != (distance > 0)
    if wrong.any():
        assert float(distance[wrong].abs().max()) <= rounding(logits)


def check_labels(labels: Tensor, mask: Tensor, logits: Tensor) -> None:
    """Check that a pixel's label is a set mask whose exact logit is the highest within rounding."""
    assert torch.equal(labels > 0, mask.any(0))
    exact = upsampled(logits.double(), (mask.shape[1], mask.shape[2])).where(mask, -torch.inf)
    chosen = exact.gather(0, (labels.long() - 1).clamp(min=0)[None])[0]
    behind = (exact.amax(0) - chosen)[labels > 0]
    assert not behind.numel() or float(behind.max()) <= 2 * rounding(logits)


def check(logits: Tensor, size: tuple[int, int], threshold: float, impl: Impl) -> Tensor:
    """Check masks, labels, areas, boxes and run lengths; returns the masks."""
    found = mask_output(logits, size, threshold, impl=impl)
    bits, labels = found.bits, found.labels
    assert (bits.dtype, labels.dtype) == (torch.uint8, torch.int16)
    mask = unpack_bits(bits, size[1])
    assert mask.dtype == torch.bool
    assert mask.shape == (len(logits), *size)
    check_mask(mask, logits, threshold)
    if len(logits):
        check_labels(labels, mask, logits)
    check_formats(bits, mask)
    check_extents(found, size[1])
    alone = mask_output(logits, size, threshold, impl=impl, non_overlap=True)
    assert torch.equal(alone.labels, labels)
    numbers = torch.arange(1, len(logits) + 1, device=DEVICE)[:, None, None]
    assert torch.equal(alone.bits, pack_bits(labels == numbers))
    check_extents(alone, size[1])
    return mask


def check_formats(bits: Tensor, mask: Tensor) -> None:
    """Check that bits and runs represent the masks losslessly."""
    np.testing.assert_array_equal(bits.cpu(), np.packbits(mask.cpu().numpy(), axis=-1))
    size = (mask.shape[1], mask.shape[2])
    runs = run_lengths(bits, size[1])
    assert runs.counts.dtype == runs.offsets.dtype == torch.int64
    assert len(runs.tolist()) == len(mask)
    for counts, one in zip(runs.tolist(), mask.cpu().numpy(), strict=True):
        assert counts == run_lengths_of(one)
        np.testing.assert_array_equal(decode_rle({"size": size, "counts": counts}), one)


def check_extents(found: MaskOutput, width: int) -> None:
    """Check areas and boxes against the pixels that NumPy finds in the masks."""
    assert (found.areas.dtype, found.boxes.dtype) == (torch.int64, torch.int32)
    masks = np.unpackbits(found.bits.cpu().numpy(), axis=-1, count=width)
    for area, box, one in zip(found.areas.tolist(), found.boxes.tolist(), masks, strict=True):
        y, x = np.nonzero(one)
        assert area == len(x)
        assert box == ([x.min(), y.min(), x.max(), y.max()] if len(x) else [-1] * 4)


def run_lengths_of(mask: Any) -> list[int]:
    """Compute the run lengths of a mask in plain Python."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_sizes(low: tuple[int, int], size: tuple[int, int], dtype: torch.dtype, impl: Impl) -> None:
    mask = check(blobs(2, low, dtype), size, 0.0, impl)
    if mask.numel() > 1000:
        assert 0.1 < mask.float().mean() < 0.9


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("impl", IMPLS)
def test_pixels_at_the_threshold(impl: Impl) -> None:
    """In each of 100 masks one pixel is close to the threshold, but farther than rounding."""
    size = (13, 29)
    base = blobs(1, (9, 11)).double()
    values = upsampled(base, size).flatten()[:: size[0] * size[1] // 50][:50]
    sign = torch.tensor([2.0, -2.0], device=DEVICE)[:, None]
    shifts = (values + sign * rounding(base)).flatten()
    logits = (base - shifts[:, None, None]).float()
    near = upsampled(logits.double(), size).abs() <= 4 * rounding(base)
    assert near.sum() >= 100
    check_mask(masks_of(logits, size, impl=impl), logits, 0.0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("threshold", [0.0, 0.1, -2.5])
@pytest.mark.parametrize("size", [(7, 9), (23, 40)])
def test_equals_pytorch_in_float32(size: tuple[int, int], threshold: float, impl: Impl) -> None:
    """Also where a logit equals the threshold rounded to float32."""
    logits = blobs(2, (7, 9))
    logits[0] = threshold
    up = upsampled(logits, size)
    mask = check(logits, size, threshold, impl)
    near = (up - threshold).abs() <= rounding(logits)
    assert torch.equal(mask[~near], (up > threshold)[~near])
    if size == (7, 9):
        assert not mask[0].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", [(12, 14), (5, 5), (31, 17)])
def test_non_finite_logits(size: tuple[int, int], impl: Impl) -> None:
    """Like PyTorch: infinity times a weight of 0 is NaN, which is not set."""
    logits = torch.full((3, 6, 7), 3.0, device=DEVICE)
    logits[0, 2, 3] = float("nan")
    logits[1, 1:4, 2:5] = float("inf")
    logits[1, 5, 6] = -float("inf")
    logits[2] = -float("inf")
    up = upsampled(logits, size)
    mask = masks_of(logits, size, impl=impl)
    assert torch.equal(mask, up > 0)
    assert mask[:2].any((1, 2)).all()
    assert not mask[2].any()
    assert not mask[:2].all((1, 2)).any()
    found = mask_output(logits, size, impl=impl)
    check_formats(found.bits, mask)
    check_extents(found, size[1])
    best = up.where(mask, -torch.inf).argmax(0)
    assert torch.equal(found.labels, torch.where(mask.any(0), best + 1, 0).short())


@pytest.mark.parametrize("impl", IMPLS)
def test_no_masks(impl: Impl) -> None:
    none = torch.zeros(0, 4, 4, device=DEVICE)
    bits, labels, areas, boxes = mask_output(none, (9, 10), impl=impl)
    assert (bits.shape, areas.shape, boxes.shape) == ((0, 9, 2), (0,), (0, 4))
    assert torch.equal(labels, torch.zeros(9, 10, dtype=torch.int16, device=DEVICE))
    assert unpack_bits(bits, 10).shape == (0, 9, 10)
    assert run_lengths(bits, 10).tolist() == []


@pytest.mark.parametrize(("n", "impl"), [*((7, impl) for impl in IMPLS), (300, "auto")])
def test_equal_logits_go_to_the_first(n: int, impl: Impl) -> None:
    """Also with more objects than fit into a byte."""
    logits = torch.full((n, 3, 4), -1.0, device=DEVICE)
    logits[n - 5 :] = torch.tensor([2.0, 3.0, 3.0, -1.0, 3.0], device=DEVICE)[:, None, None]
    found = mask_output(logits, (7, 9), impl=impl, non_overlap=True)
    assert (found.labels == n - 3).all()
    assert unpack_bits(found.bits, 9).any((1, 2)).nonzero().tolist() == [[n - 4]]
    check_extents(found, 9)


@pytest.mark.parametrize("impl", IMPLS)
def test_non_overlap_is_that_of_the_model(impl: Impl) -> None:
    logits = blobs(4, (16, 16))
    alone = without_overlap(upsampled(logits, (45, 61))[:, None])[:, 0] > 0
    assert (upsampled(logits, (45, 61)) > 0).sum(0).max() > 1
    assert torch.equal(masks_of(logits, (45, 61), impl=impl, non_overlap=True), alone)


@pytest.mark.parametrize("impl", IMPLS)
def test_small_objects_anywhere(impl: Impl) -> None:
    """At edges and corners, and in the middle."""
    logits = torch.full((9, 12, 12), -3.0, device=DEVICE)
    for i, (y, x) in enumerate((y, x) for y in (0, 5, 11) for x in (0, 6, 11)):
        logits[i, y, x] = 4.0
    mask = check(logits, (20, 33), 0.0, impl)
    assert torch.equal(mask, upsampled(logits, (20, 33)) > 0)
    assert mask.any((1, 2)).all()


def test_areas_and_boxes_of_masks() -> None:
    """Empty, full, one pixel in each corner, a row, a column and noise, against NumPy."""
    masks = torch.zeros(9, 11, 14, dtype=torch.bool, device=DEVICE)
    masks[1] = True
    for i, (y, x) in enumerate(((0, 0), (0, 13), (10, 0), (10, 13)), start=2):
        masks[i, y, x] = True
    masks[6, 4], masks[7, :, 9] = True, True
    masks[8, 2:7, 3:12] = torch.rand(5, 9, device=DEVICE) > 0.8
    bits = pack_bits(masks)
    found = MaskOutput(bits, masks[0], areas_of(masks), boxes_of(bits))
    check_extents(found, 14)
    assert found.boxes[:2].tolist() == [[-1] * 4, [0, 0, 13, 10]]
    # The arithmetic for other devices.
    elsewhere = bits_module._unpack_on_device(bits).any(1)
    assert torch.equal(bits_module._corners((bits != 0).any(2), elsewhere), found.boxes)


def test_packing_on_a_device() -> None:
    """The arithmetic for other devices agrees with NumPy."""
    mask = torch.rand(3, 5, 21) > 0.5
    bits = pack_bits(mask)
    assert torch.equal(bits_module._pack_on_device(mask), bits)
    assert torch.equal(bits_module._unpack_on_device(bits)[..., :21], mask)


@pytest.mark.parametrize("impl", IMPLS)
def test_non_contiguous_logits(impl: Impl) -> None:
    check(blobs(4, (20, 24))[::2, 3:17, ::2], (33, 30), 0.0, impl)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(0, 3),
    low=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    threshold=st.floats(-5, 5),
    dtype=st.sampled_from(DTYPES),
    impl=st.sampled_from(IMPLS),
)
def test_any_shape(
    n: int,
    low: tuple[int, int],
    size: tuple[int, int],
    threshold: float,
    dtype: torch.dtype,
    impl: Impl,
) -> None:
    check(blobs(n, low, dtype), size, threshold, impl)


def test_everything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """With small programs, into buffers that are not zero."""
    empty = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(77))
    logits, size = blobs(2, (9, 11)), (30, 37)
    for non_overlap in (False, True):
        expected = mask_output(logits, size, impl="reference", non_overlap=non_overlap)
        found = launch(logits, *size, 0.0, non_overlap, Launch(8, 4, 1))
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


def test_float64_is_not_rounded() -> None:
    logits = torch.full((1, 2, 2), 1e-300, dtype=torch.float64, device=DEVICE)
    assert masks_of(logits, (5, 5)).all()
    with pytest.raises(TypeError, match="float64"):
        mask_output(logits, (5, 5), impl="triton")


def test_registration() -> None:
    logits = blobs(2, (6, 7))
    for non_overlap in (False, True):
        args = (logits, 15, 17, 0.0, non_overlap)
        torch.library.opcheck(torch.ops.fastsam2.mask_output.default, args)


def test_compiles_whole_and_once() -> None:
    compiled = torch.compile(mask_output, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, size in ((2, (15, 17)), (3, (20, 33)), (5, (8, 44))):
        logits = blobs(n, (6, 7))
        with torch._dynamo.config.patch(error_on_recompile=n > 2):
            found = compiled(logits, size)
        expected = mask_output(logits, size)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


BAD: list[tuple[Any, Any, Any, dict[str, Any], type[Exception], str]] = [
    (torch.zeros(1, 4, 4).int(), (8, 8), 0.0, {}, TypeError, "int32"),
    (torch.zeros(1, 4, 4).to(torch.float8_e5m2), (8, 8), 0.0, {}, TypeError, "float8_e5m2"),
    (torch.zeros(1, 1, 4, 4), (8, 8), 0.0, {}, ValueError, r"\(1, 1, 4, 4\)"),
    (torch.zeros(1, 0, 4), (8, 8), 0.0, {}, ValueError, r"\(1, 0, 4\)"),
    (torch.zeros(1, 1, 1).expand(1, 2**16, 2**15), (8, 8), 0.0, {}, ValueError, "32768"),
    (torch.zeros(1, 4, 4), (0, 8), 0.0, {}, ValueError, "0 x 8"),
    (torch.zeros(1, 4, 4), (2**16, 2**15), 0.0, {}, ValueError, "65536 x 32768"),
    (torch.zeros(1, 4, 4), (8,), 0.0, {}, ValueError, r"\(8,\)"),
    (torch.zeros(1, 4, 4), 8, 0.0, {}, ValueError, "got 8"),
    (torch.zeros(1, 4, 4), (8.5, 8), 0.0, {}, ValueError, r"\(8.5, 8\)"),
    (torch.zeros(1, 4, 4), (8, 8), None, {}, TypeError, "None"),
    (torch.zeros(1, 4, 4), (8, 8), "0", {}, TypeError, "'0'"),
    (torch.zeros(1, 1, 1).expand(2**15, 1, 1), (8, 8), 0.0, {}, ValueError, "32768"),
    (torch.zeros(1, 4, 4), (8, 8), 0.0, {"impl": "cuda"}, ValueError, "'cuda'"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case: int) -> None:
    logits, size, threshold, keywords, error, match = BAD[case]
    with pytest.raises(error, match=match):
        mask_output(logits, size, threshold, **keywords)


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
