"""Bicubic resize with normalisation: every implementation against Pillow, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.resize import normalize, reference, resize
from fastsam2_kernels.resize.normalize import _look_up, normalization_table
from fastsam2_kernels.resize.reference import axis_order, resize_bytes, taps_of
from fastsam2_kernels.resize.tuning import Launch

pytest.importorskip("triton")
from fastsam2_kernels.resize.kernel import launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMPLS: list[Impl] = ["auto", "triton", "reference"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: (H, W) to (height, width): up, down, both, one axis only, odd, by whole factors, one pixel.
SIZES = [
    ((24, 32), (48, 64)),
    ((48, 64), (24, 32)),
    ((36, 48), (50, 50)),
    ((37, 53), (64, 64)),
    ((90, 120), (64, 64)),
    ((53, 37), (31, 29)),
    ((64, 64), (64, 64)),
    ((64, 40), (64, 64)),
    ((40, 64), (64, 64)),
    ((33, 35), (33, 17)),
    ((45, 80), (80, 45)),
    ((60, 9), (7, 70)),
    ((100, 3), (11, 13)),
    ((1, 50), (20, 20)),
    ((50, 1), (20, 20)),
    ((1, 1), (9, 7)),
    ((11, 15), (1, 1)),
    ((2, 2), (3, 5)),
    ((19, 300), (23, 40)),
    ((65, 67), (66, 66)),
]


def noise(n: int, size: tuple[int, int]) -> Tensor:
    """Return bytes of which many are black or white, so that sums overshoot 0..255."""
    values = 400 * torch.rand(n, *size, 3) - 72
    return values.clamp(0, 255).to(DEVICE, torch.uint8)


def by_pillow(images: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Resize with Pillow, uint8 `[B, height, width, 3]`."""
    found = [Image.fromarray(x).resize(size[::-1]) for x in images.cpu().numpy()]
    return np.stack([np.asarray(x) for x in found])


def normalized(pixels: np.ndarray) -> Tensor:
    """Normalise as `_load_img_as_tensor` of `sam2`, float32 `[B, 3, H, W]`."""
    images = torch.from_numpy(pixels / 255.0).permute(0, 3, 1, 2).to(torch.float32)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return ((images - mean) / std).to(DEVICE)


@pytest.mark.parametrize(("low", "size"), SIZES)
def test_bytes_are_those_of_pillow(low: tuple[int, int], size: tuple[int, int]) -> None:
    images = noise(1, low)
    np.testing.assert_array_equal(resize_bytes(images, *size).cpu(), by_pillow(images, size))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_sizes(low: tuple[int, int], size: tuple[int, int], impl: Impl) -> None:
    """No two bytes have the same normalised value, so equal results are equal bytes."""
    images = noise(1, low)
    found = resize(images, size, MEAN, STD, impl=impl)
    assert found.is_contiguous()
    assert torch.equal(found, normalized(by_pillow(images, size)))


def test_order_of_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portrait video shrinks in height first, from Pillow 13 on."""
    sizes = [((1280, 720), (1024, 1024)), ((720, 1280), (1024, 1024)), ((1000, 1000), (500, 750))]
    for version_13, first in ((True, [0, 1, 1]), (False, [1, 1, 1])):
        monkeypatch.setattr(reference, "_CHOOSES_ORDER", version_13)
        assert [axis_order(*size)[0] for size in sizes] == first


@pytest.mark.slow
@pytest.mark.parametrize("low", [(480, 854), (720, 1280), (1080, 1920), (1280, 720)])
def test_videos(low: tuple[int, int]) -> None:
    images = noise(1, low)
    expected = by_pillow(images, (1024, 1024))
    np.testing.assert_array_equal(resize_bytes(images, 1024, 1024).cpu(), expected)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    n=st.integers(0, 3),
    low=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    impl=st.sampled_from(IMPLS),
)
def test_any_size(n: int, low: tuple[int, int], size: tuple[int, int], impl: Impl) -> None:
    images = noise(n, low)
    found = resize(images, size, MEAN, STD, impl=impl)
    assert found.shape == (n, 3, *size)
    if n:
        assert torch.equal(found, normalized(by_pillow(images, size)))


@pytest.mark.parametrize("low", [1, 2, 5, 1023, 1024, 1920, 2**16])
@pytest.mark.parametrize("out", [1, 7, 1024])
def test_weights(low: int, out: int) -> None:
    """They add up to 1 within their rounding, and sums of weighted bytes fit into int32."""
    first, weights = taps_of(low, out, torch.device("cpu"))
    assert (first.dtype, weights.dtype) == (torch.int32, torch.int32)
    assert (first >= 0).all()
    used = (weights != 0).sum(0).max()
    assert ((weights.sum(0) - 2**22).abs() <= used).all()
    assert (255 * weights.long().abs().sum(0) < 2**31 - 2**21).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, impl: Impl) -> None:
    """Half precision is float32 rounded once."""
    images = noise(1, (30, 41))
    found = resize(images, (32, 32), MEAN, STD, dtype=dtype, impl=impl)
    assert found.dtype == dtype
    assert torch.equal(found, resize(images, (32, 32), MEAN, STD).to(dtype))


@pytest.mark.parametrize("impl", IMPLS)
def test_batch(impl: Impl) -> None:
    """Images do not leak into each other, and each has all three channels of its own."""
    images = noise(3, (21, 34))
    images[1] = 255
    found = resize(images, (40, 27), MEAN, STD, impl=impl)
    for one, image in zip(found, images, strict=True):
        assert torch.equal(one, resize(image[None], (40, 27), MEAN, STD)[0])
    assert torch.equal(found[1], normalized(np.full((1, 40, 27, 3), 255, np.uint8))[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_no_images(impl: Impl) -> None:
    found = resize(noise(0, (8, 9)), (4, 5), MEAN, STD, dtype=torch.float16, impl=impl)
    assert (found.shape, found.dtype) == ((0, 3, 4, 5), torch.float16)


@pytest.mark.parametrize("impl", IMPLS)
def test_non_contiguous_images(impl: Impl) -> None:
    images = noise(4, (40, 50))[::2, 3:33, ::2].flip(1)
    found = resize(images, (32, 24), MEAN, STD, impl=impl)
    assert torch.equal(found, normalized(by_pillow(images, (32, 24))))


def test_other_normalisations() -> None:
    """Tables of several normalisations are not confused."""
    images = (
        torch.arange(256, dtype=torch.uint8, device=DEVICE).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    )
    for shift, scale in ((0.0, 1.0), (0.5, 0.5), (0.0, 1 / 255)):
        found = resize(images, (16, 16), (shift,) * 3, (scale,) * 3)
        unit = torch.from_numpy(np.arange(256) / 255).float().to(DEVICE)
        assert torch.equal(found[0, 2].flatten(), (unit - shift) / scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_look_up_of_devices_equals_that_of_the_cpu(
    dtype: torch.dtype,
) -> None:
    images = noise(2, (9, 13)).cpu()
    expected = normalize(images, MEAN, STD, dtype)
    table = normalization_table(MEAN, STD, dtype, images.device)
    assert torch.equal(_look_up(images, table), expected)


def test_everything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """With small programs, into buffers that are not zero."""
    empty = Tensor.new_empty
    images, size = noise(2, (9, 11)), (13, 21)
    expected = resize(images, size, MEAN, STD)
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(77))
    assert torch.equal(launch(images, *size, MEAN, STD, torch.float32, Launch(8, 16, 1)), expected)


def test_registration() -> None:
    args = (noise(2, (9, 11)), 15, 17, [*MEAN], [*STD], torch.float16)
    torch.library.opcheck(torch.ops.fastsam2.resize.default, args)


def test_compiles_whole_and_once() -> None:
    compiled = torch.compile(resize, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, low, size in ((2, (9, 11), (15, 17)), (3, (20, 8), (6, 33)), (5, (33, 44), (8, 9))):
        images = noise(n, low)
        with torch._dynamo.config.patch(error_on_recompile=n > 2):
            found = compiled(images, size, MEAN, STD)
        assert torch.equal(found, resize(images, size, MEAN, STD))


GOOD: dict[str, Any] = {
    "images": torch.zeros(1, 4, 4, 3, dtype=torch.uint8),
    "size": (8, 8),
    "mean": MEAN,
    "std": STD,
}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "floats": ({"images": torch.zeros(1, 4, 4, 3)}, TypeError, "float32"),
    "one image": ({"images": GOOD["images"][0]}, ValueError, r"\(4, 4, 3\)"),
    "planes": ({"images": GOOD["images"].mT}, ValueError, r"\(1, 4, 3, 4\)"),
    "no pixels": ({"images": GOOD["images"][:, :0]}, ValueError, r"\(1, 0, 4, 3\)"),
    "wide": ({"images": GOOD["images"][:, :1, :1].expand(1, 1, 2**16 + 1, 3)}, ValueError, "65537"),
    "zero": ({"size": (0, 8)}, ValueError, r"\(0, 8\)"),
    "high": ({"size": (2**16 + 1, 8)}, ValueError, "65537"),
    "one side": ({"size": (8,)}, ValueError, r"\(8,\)"),
    "fraction": ({"size": (8.5, 8)}, ValueError, r"\(8.5, 8\)"),
    "number": ({"size": 8}, ValueError, "got 8"),
    "gray mean": ({"mean": (0.5,)}, ValueError, r"mean .*\(0.5,\)"),
    "text": ({"std": ("1", "1", "1")}, ValueError, "std .*'1'"),
    "flat": ({"std": (0.2, 0.0, 0.2)}, ValueError, "std .*0.0"),
    "double": ({"dtype": torch.float64}, TypeError, "float64"),
    "impl": ({"impl": "cuda"}, ValueError, "'cuda'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    changed, error, match = BAD[case]
    with pytest.raises(error, match=match):
        resize(**{**GOOD, **changed})


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("low", [(480, 854), (720, 1280), (1080, 1920), (1280, 720)])
def test_real_size(low: tuple[int, int], dtype: torch.dtype) -> None:
    images = noise(2, low)
    found = resize(images, (1024, 1024), MEAN, STD, dtype=dtype, impl="triton")
    assert torch.equal(found, normalized(by_pillow(images, (1024, 1024))).to(dtype))
