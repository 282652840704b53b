"""Image preprocessing against torchvision's, through the official transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam2.errors import InputError
from fastsam2.utils.transforms import SAM2Transforms
from tests.predictors.image_cases import official_parts, photograph

# This imports torchvision, which needs what `tests.reference` defines.
# isort: split
from sam2.utils.transforms import SAM2Transforms as Official

SIZES = [(150, 210), (31, 700), (64, 64), (1, 1), (500, 33)]


def test_resize_and_normalise() -> None:
    official, ours = Official(64, 0.0), SAM2Transforms(64, 0.0)
    for i, (height, width) in enumerate(SIZES):
        image = photograph(height, width, seed=i)
        floats = np.random.default_rng(i).random((height, width, 3), dtype=np.float32)
        bright = floats.astype(np.float64) * 255
        kinds: list[Any] = [image, Image.fromarray(image), floats, bright]
        kinds += [image[:, ::-1], image[::2, ::3], np.asfortranarray(image)]
        for kind in kinds:
            expected = official(kind.copy() if isinstance(kind, np.ndarray) else kind)
            actual = ours(kind)
            assert actual.shape == (3, 64, 64)
            assert actual.dtype == torch.float32
            scale = max(1.0, float(expected.abs().max()) / 2.7)
            assert (actual - expected).abs().max() <= 1e-6 * scale


@pytest.mark.parametrize("resolution", [256, 1024])
def test_resolutions(resolution: int) -> None:
    image = photograph(300, 400)
    expected = Official(resolution, 0.0)(image)
    assert (SAM2Transforms(resolution, 0.0)(image) - expected).abs().max() <= 1e-6


def test_batch() -> None:
    images = [photograph(*size) for size in SIZES]
    ours = SAM2Transforms(48, 0.0)
    batch = ours.forward_batch(images)
    assert batch.shape == (len(images), 3, 48, 48)
    assert all(torch.equal(row, ours(image)) for row, image in zip(batch, images, strict=True))
    assert (batch - Official(48, 0.0).forward_batch(images)).abs().max() <= 1e-6


def test_readonly_array_is_not_modified() -> None:
    image = photograph(20, 30)
    kept = image.copy()
    image.flags.writeable = False
    SAM2Transforms(16, 0.0)(image)
    np.testing.assert_array_equal(image, kept)


def test_coordinates() -> None:
    official, ours = Official(256, 0.0), SAM2Transforms(256, 0.0)
    coords = torch.tensor([[[10.5, 20.0], [3.0, 7.0]]])
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 7.0, 8.0]])
    for name, value in (("transform_coords", coords), ("transform_boxes", boxes)):
        kept = value.clone()
        for keywords in ({}, {"normalize": True, "orig_hw": (150, 210)}):
            expected = getattr(official, name)(value, **keywords)
            actual = getattr(ours, name)(value, **keywords)
            assert actual.shape == expected.shape
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
        assert torch.equal(value, kept)
    with pytest.raises(InputError, match="orig_hw"):
        ours.transform_coords(coords, normalize=True)


@pytest.mark.parametrize(("holes", "specks"), [(0, 0), (12, 0), (0, 9), (20, 15), (1e9, 1e9)])
def test_postprocess_masks(holes: float, specks: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.nn.functional.interpolate(
        torch.randn(2, 3, 20, 20, generator=generator), (64, 64), mode="bilinear"
    )
    logits += torch.randn(logits.shape, generator=generator) * 0.3
    with official_parts():
        expected = Official(64, 0.25, holes, specks).postprocess_masks(logits, (90, 70))
    actual = SAM2Transforms(64, 0.25, holes, specks).postprocess_masks(logits, (90, 70))
    assert actual.shape == (2, 3, 90, 70)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    low = SAM2Transforms(64, 0.25, holes, specks).postprocess_masks(logits.bfloat16(), [90, 70])
    assert low.dtype == torch.float32


def test_gradients_reach_the_logits() -> None:
    logits = torch.randn(1, 1, 16, 16, requires_grad=True)
    SAM2Transforms(64, 0.0).postprocess_masks(logits, (30, 20)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
