"""Mask helpers against the official ones and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fastsam2.errors import InputError
from fastsam2.utils import misc
from tests.predictors.image_cases import EIGHT, official_parts, scipy_components

# This imports torchvision, which needs what `tests.reference` defines.
# isort: split
import sam2.utils.misc as official

MASKS = torch.rand(4, 1, 30, 41, generator=torch.Generator().manual_seed(0)) < 0.5


def test_connected_components() -> None:
    for mask in (MASKS, MASKS.to(torch.uint8), MASKS.float()):
        for actual, expected in zip(
            misc.get_connected_components(mask), scipy_components(MASKS), strict=True
        ):
            assert torch.equal(actual, expected)


def test_mask_to_box() -> None:
    masks = torch.zeros(5, 1, 20, 30, dtype=torch.bool)
    masks[0, 0, 4:9, 7:11] = True
    masks[1, 0, 19, 29] = masks[1, 0, 0, 0] = True
    masks[2] = True
    masks[3, 0, 5, 6] = True
    actual = misc.mask_to_box(masks)
    assert torch.equal(actual, official.mask_to_box(masks))
    assert actual.dtype == official.mask_to_box(masks).dtype
    assert actual[0, 0].tolist() == [7, 4, 10, 8]
    assert actual[4, 0].tolist() == [30, 20, -1, -1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_holes_are_filled(seed: int, max_area: int) -> None:
    scores = torch.randn(2, 1, 17, 23, generator=torch.Generator().manual_seed(seed))
    filled = misc.fill_holes_in_mask_scores(scores, max_area)
    with official_parts():
        assert torch.equal(filled, official.fill_holes_in_mask_scores(scores, max_area))
    for before, after in zip(scores[:, 0].numpy(), filled[:, 0].numpy(), strict=True):
        holes, n = ndimage.label(before <= 0, EIGHT)
        for i in range(1, n + 1):
            hole = holes == i
            kept = hole.sum() > max_area
            assert (after[hole] == (before[hole] if kept else np.float32(0.1))).all()
        assert (after[before > 0] == before[before > 0]).all()


@pytest.mark.parametrize("max_area", [0, -3])
def test_area_must_be_positive(max_area: int) -> None:
    with pytest.raises(InputError, match=str(max_area)):
        misc.fill_holes_in_mask_scores(torch.zeros(1, 1, 4, 4), max_area)


def test_concat_points() -> None:
    points, labels = torch.rand(2, 3, 2), torch.ones(2, 3, dtype=torch.int32)
    old = None
    for _ in range(3):
        expected = official.concat_points(old, points, labels)
        actual = misc.concat_points(old, points, labels)
        assert list(actual) == list(expected)
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
        old = expected


def test_sdpa_settings() -> None:
    old_gpu, flash, math = misc.get_sdpa_settings()
    assert old_gpu == math == (not flash)
    assert flash <= torch.cuda.is_available()
