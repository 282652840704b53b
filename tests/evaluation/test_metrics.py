"""Compare the measures with values by hand and with slow implementations of the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastsam2.errors import InputError
from fastsam2.evaluation.metrics import (
    boundary,
    boundary_f,
    dilate,
    jaccard,
    score_auc,
    tolerance_radius,
)

Mask = npt.NDArray[np.bool_]


def _square(left: int = 20, top: int = 20, side: int = 10) -> Mask:
    """Square in an image of 60 x 80, where the tolerance is one pixel."""
    mask = np.zeros((60, 80), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((60, 80), np.bool_)

masks = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
    lambda size: arrays(np.bool_, (2, *size))
)
# Independent pixels are noise; rectangles have an interior.
blobs = st.tuples(st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**32 - 1)).map(
    lambda drawn: _rectangles(*drawn)
)


def _rectangles(height: int, width: int, seed: int) -> Mask:
    rng = np.random.default_rng(seed)
    pair = np.zeros((2, height, width), np.bool_)
    for mask, _ in itertools.product(pair, range(rng.integers(0, 4))):
        y0, y1 = sorted(rng.integers(0, height + 1, 2))
        x0, x1 = sorted(rng.integers(0, width + 1, 2))
        mask[y0:y1, x0:x1] ^= True
    return pair


def _slow_boundary(mask: Mask) -> Mask:
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y, x in np.ndindex(height, width):
        below, right = min(y + 1, height - 1), min(x + 1, width - 1)
        here = mask[y, x]
        edge[y, x] = {here} != {here, mask[y, right], mask[below, x], mask[below, right]}
    return edge


def _slow_f(truth: Mask, found: Mask, radius: int) -> float:
    edges = [_slow_boundary(mask) for mask in (found, truth)]
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    precision, recall = (
        (scipy.ndimage.distance_transform_edt(~other)[edge] <= radius).mean()
        for edge, other in (edges, reversed(edges))
    )
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(
    ("found", "j", "f"),
    [
        (_square(), 1, 1),
        (_square(left=60), 0, 0),
        (EMPTY, 0, 0),
        # Shifted by one pixel, the tolerance: all boundary pixels match.
        (_square(left=21), 90 / 110, 1),
        # Each boundary is the ring of an 11 x 11 square, 40 pixels. Within one pixel of the other
        # are 9 pixels of its top, 9 of its bottom, and 2 more where its side meets them.
        (_square(left=23), 70 / 130, 20 / 40),
        (_square(top=23), 70 / 130, 20 / 40),
    ],
)
def test_squares(found: Mask, j: float, f: float) -> None:
    assert jaccard(_square(), found) == pytest.approx(j)
    assert boundary_f(_square(), found) == pytest.approx(f)
    assert boundary_f(found, _square()) == pytest.approx(f)


def test_absent_objects() -> None:
    assert jaccard(EMPTY, EMPTY) == boundary_f(EMPTY, EMPTY) == 1
    assert jaccard(EMPTY, _square()) == boundary_f(EMPTY, _square()) == 0


def test_a_mask_that_fills_the_image_has_no_boundary() -> None:
    assert not boundary(~EMPTY).any()
    assert boundary_f(~EMPTY, ~EMPTY) == boundary_f(~EMPTY, EMPTY) == 1
    assert boundary_f(~EMPTY, _square()) == 0


def test_many_at_once() -> None:
    truth = np.array([[_square(), EMPTY, EMPTY]] * 2)
    found = np.array([[_square(23), EMPTY, _square()]] * 2).astype(np.uint8)
    np.testing.assert_allclose(jaccard(truth, found), [[7 / 13, 1, 0]] * 2)
    np.testing.assert_allclose(boundary_f(truth, found), [[0.5, 1, 0]] * 2)


@pytest.mark.parametrize(
    ("height", "width", "radius"),
    # Diagonals 979.66, 2202.9, 500, 501, 100 and 10.
    [(480, 854, 8), (1080, 1920, 18), (300, 400, 4), (300, 401, 5), (60, 80, 1), (6, 8, 1)],
)
def test_tolerance(height: int, width: int, radius: int) -> None:
    assert tolerance_radius(height, width) == radius
    assert tolerance_radius(width, height) == radius


def test_the_tolerance_is_that_of_the_size() -> None:
    big = np.zeros((480, 854), np.bool_)
    big[100:200, 100:200] = True
    assert boundary_f(big, np.roll(big, 8, axis=1)) == 1
    assert boundary_f(big, np.roll(big, 9, axis=1)) < 1


@settings(max_examples=150, deadline=None)
@given(masks | blobs, st.integers(0, 6))
def test_f_is_that_of_the_definition(pair: Mask, radius: int) -> None:
    for mask in pair:
        np.testing.assert_array_equal(boundary(mask), _slow_boundary(mask))
    assert boundary_f(*pair, radius) == pytest.approx(_slow_f(*pair, radius), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(masks, st.integers(0, 25))
def test_dilation(pair: Mask, radius: int) -> None:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    expected = scipy.ndimage.binary_dilation(pair[0], disk)
    np.testing.assert_array_equal(dilate(pair[0], radius), expected)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_j_counts_pixels(pair: Mask) -> None:
    first, second = (set(map(tuple, np.argwhere(mask))) for mask in pair)
    expected = len(first & second) / len(first | second) if first | second else 1
    assert jaccard(*pair) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_masks_that_cannot_be_compared(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(InputError, match=r"same shape .*, not \[60, 80\] and \[80, 60\]"):
        measure(EMPTY, EMPTY.T)
    with pytest.raises(InputError, match=r"\[\.\.\., H, W\]"):
        measure(EMPTY[0], EMPTY[0])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_auc_counts_pairs(drawn: list[tuple[int, bool]]) -> None:
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for (high, present), (low, also) in itertools.product(drawn, repeat=2)
        if present and not also
    ]
    scores, present = [score / 5 for score, _ in drawn], [truth for _, truth in drawn]
    auc = score_auc(scores, present)
    assert math.isnan(auc) if not pairs else auc == pytest.approx(np.mean(pairs))


def test_auc_ignores_unknown_scores() -> None:
    assert score_auc([0.9, math.nan, 0.1, math.nan], [True, False, False, True]) == 1
    assert score_auc([0.9, 0.1], [False, True]) == 0
    with pytest.raises(InputError, match=r"\[2\] and \[3\]"):
        score_auc([0.5, 0.5], [True, False, True])
