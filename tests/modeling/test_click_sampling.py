"""Simulated clicks and boxes against `sam2`; scipy replaces OpenCV's distance transform."""

from __future__ import annotations

import types
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from tests import reference  # isort: skip  # before fastsam2
from sam2.modeling import sam2_utils as official  # isort: skip

from fastsam2.modeling import sam2_utils as ours

assert reference.CONFIGS

CV2 = types.SimpleNamespace(
    DIST_L2=2,
    distanceTransform=lambda mask, *_: ndimage.distance_transform_edt(mask).astype(np.float32),
)


def blobs(seed: int, batch: int = 3, height: int = 24, width: int = 31) -> tuple[Tensor, Tensor]:
    """Return smooth masks, and predictions with errors."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, batch, 1, 5, 6, generator=generator).flatten(0, 1)
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    truth, error = smooth.unflatten(0, (2, batch))
    return truth > 0, truth + 0.7 * error > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_click_at_the_centre_of_an_error(seed: int, padding: bool, nothing_predicted: bool) -> None:
    truth, predicted = blobs(seed)
    # A mask without a boundary has no distance to it.
    truth[..., 0, 0] = predicted[..., 0, 0] = False
    shown = None if nothing_predicted else predicted
    points, labels = ours.sample_one_point_from_error_center(truth, shown, padding)
    with mock.patch.dict("sys.modules", cv2=CV2):
        expected = official.sample_one_point_from_error_center(truth, shown, padding)
    for actual, wanted in zip((points, labels), expected, strict=True):
        assert torch.equal(actual, wanted)
        assert actual.dtype == wanted.dtype


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans())
def test_random_clicks_on_errors(seed: int, num_pt: int, perfect: bool) -> None:
    """The same random numbers give the same clicks."""
    truth, predicted = blobs(seed)
    shown = truth if perfect else predicted
    results = []
    for module in (official, ours):
        torch.manual_seed(seed)
        results.append(module.sample_random_points_from_errors(truth, shown, num_pt))
    for wanted, actual in zip(*results, strict=True):
        assert torch.equal(actual, wanted)
        assert actual.dtype == wanted.dtype
    points, labels = results[1]
    x, y = points.long().unbind(-1)
    rows = torch.arange(len(truth))[:, None]
    assert torch.equal(truth[rows, 0, y, x], labels.bool())
    if not perfect:
        wrong = truth ^ predicted
        some = wrong.flatten(1).any(1)
        assert wrong[rows, 0, y, x][some].all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([2, 20]))
def test_boxes_around_masks(seed: int, noise: float, bound: int) -> None:
    truth, _ = blobs(seed)
    truth[0, 0, 3:5, 4] = True
    results = []
    for module in (official, ours):
        torch.manual_seed(seed)
        results.append(module.sample_box_points(truth, noise, bound))
    (wanted, wanted_labels), (actual, labels) = results
    assert torch.equal(labels, wanted_labels)
    assert labels.dtype == wanted_labels.dtype
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, wanted.float())


def test_box_of_an_empty_mask() -> None:
    empty = torch.zeros(1, 1, 6, 8, dtype=torch.bool)
    expected, _ = official.sample_box_points(empty, noise=0.0)
    actual, _ = ours.sample_box_points(empty, noise=0.0)
    assert torch.equal(actual, expected.float())


@pytest.mark.parametrize("method", ["uniform", "center"])
def test_next_click(method: str) -> None:
    truth, predicted = blobs(0)
    results = []
    with mock.patch.dict("sys.modules", cv2=CV2):
        for module in (official, ours):
            torch.manual_seed(0)
            results.append(module.get_next_point(truth, predicted, method))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bad_arguments() -> None:
    truth, predicted = blobs(0)
    for module in (official, ours):
        with pytest.raises(ValueError, match="unknown sampling method"):
            module.get_next_point(truth, predicted, "middle")
    for wrong in (truth.float(), truth[:, 0], truth.expand(-1, 2, -1, -1)):
        with pytest.raises(ValueError, match="gt_masks must be bool"):
            ours.sample_random_points_from_errors(wrong, None)
    for wrong in (predicted.float(), predicted[:1]):
        with pytest.raises(ValueError, match="pred_masks must be bool"):
            ours.sample_one_point_from_error_center(truth, wrong)
