"""Measures of DAVIS 2017 for masks, and a rank statistic for object scores.

Region similarity J and boundary accuracy F are those of Perazzi et al. (CVPR 2016, section 5) and
of `davis2017/metrics.py` in the toolkit davis2017-evaluation: the same boundaries, the same disk.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastsam2.errors import InputError

__all__ = [
    "Floats",
    "Mask",
    "boundary",
    "boundary_f",
    "dilate",
    "jaccard",
    "score_auc",
    "tolerance_radius",
]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_TOLERANCE = 0.008  # fraction of the image's diagonal


def jaccard(truth: Any, found: Any) -> Floats:
    """Region similarity J: intersection over union, 1 where both masks are empty.

    Args:
        truth: bool or integer `[..., H, W]`.
        found: the same shape.

    Returns:
        Float64 `[...]`, in 0..1.

    Raises:
        InputError: the shapes differ or have fewer than two dimensions.
    """
    truth, found = _pair(truth, found)
    both = np.count_nonzero(truth & found, axis=(-2, -1))
    either = np.asarray(np.count_nonzero(truth | found, axis=(-2, -1)))
    # 1 / 1 if both are empty.
    empty = either == 0
    return np.asarray((both + empty) / (either + empty), np.float64)


def boundary_f(truth: Any, found: Any, radius: int | None = None) -> Floats:
    """Boundary accuracy F: harmonic mean of the precision and recall of boundary pixels.

    A boundary pixel is correct if the other mask has one within `radius`. F is 1 if neither mask
    has a boundary, 0 if one of them has none.

    Args:
        truth: bool or integer `[..., H, W]`.
        found: the same shape.
        radius: tolerance in pixels; by default `tolerance_radius` of the size.

    Returns:
        Float64 `[...]`, in 0..1.

    Raises:
        InputError: the shapes differ or have fewer than two dimensions.
    """
    truth, found = _pair(truth, found)
    height, width = truth.shape[-2:]
    if radius is None:
        radius = tolerance_radius(height, width)
    pairs = zip(truth.reshape(-1, height, width), found.reshape(-1, height, width), strict=True)
    return np.array([_boundary_f(*pair, radius) for pair in pairs]).reshape(truth.shape[:-2])


def _boundary_f(truth: Mask, found: Mask, radius: int) -> float:
    window = _window(truth | found)
    if window is None:
        return 1.0
    truth_edge, found_edge = boundary(truth[window]), boundary(found[window])
    truth_count, found_count = np.count_nonzero(truth_edge), np.count_nonzero(found_edge)
    if not truth_count or not found_count:
        return float(truth_count == found_count)
    precision = np.count_nonzero(found_edge & dilate(truth_edge, radius)) / found_count
    recall = np.count_nonzero(truth_edge & dilate(found_edge, radius)) / truth_count
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def tolerance_radius(height: int, width: int) -> int:
    """Tolerance of boundary positions in pixels: 0.8 % of the diagonal, rounded up."""
    return math.ceil(_TOLERANCE * float(np.linalg.norm((height, width))))


def boundary(mask: Mask) -> Mask:
    """Mark pixels of bool `[H, W]` that differ from their right, lower or lower right neighbour.

    This is half a pixel up and left of the true boundary, as in `seg2bmap` of the toolkit (and of
    the Berkeley segmentation benchmark). The edge of the image is not a boundary.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def dilate(mask: Mask, radius: int) -> Mask:
    """Dilate bool `[H, W]` by a disk of `radius` pixels."""
    height = len(mask)
    grown = np.zeros_like(mask)
    row, reach = mask.copy(), 0
    # The disk is a stack of rows that grow from its top to its middle, so each dilated row extends
    # the one before.
    for dy in range(radius, -1, -1):
        half = math.isqrt(radius * radius - dy * dy)
        while reach < half:
            reach += 1
            row[:, reach:] |= mask[:, :-reach]
            row[:, :-reach] |= mask[:, reach:]
        rest = max(height - dy, 0)
        grown[dy:] |= row[:rest]
        grown[:rest] |= row[dy:]
    return grown


def score_auc(scores: Any, present: Any) -> float:
    """Area under the ROC curve of object scores, as a classifier of present and absent objects.

    Equals the probability that a present object scores higher than an absent one, with ties
    counting half (Mann-Whitney statistic by mean ranks).

    Args:
        scores: `[N]`; NaN marks unknown scores, which are ignored.
        present: bool `[N]`.

    Returns:
        A number in 0..1; NaN if no object is present, or none is absent.

    Raises:
        InputError: shapes that do not match.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(present, np.bool_)
    if values.ndim != 1 or values.shape != truth.shape:
        raise InputError(
            f"scores and presence must both be [N], not {list(values.shape)} and "
            f"{list(truth.shape)}"
        )
    known = ~np.isnan(values)
    values, truth = values[known], truth[known]
    positives = int(np.count_nonzero(truth))
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_ranks[place][truth].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _pair(truth: Any, found: Any) -> tuple[Mask, Mask]:
    first, second = np.asarray(truth), np.asarray(found)
    if first.shape != second.shape or first.ndim < 2:
        raise InputError(
            "masks to compare must have the same shape [..., H, W], not "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    return first.astype(np.bool_, copy=False), second.astype(np.bool_, copy=False)


def _window(mask: Mask) -> tuple[slice, slice] | None:
    """Bounding box of bool `[H, W]` that includes its boundary; None if the mask is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    # One more pixel on each side: the boundary starts above and left of the mask, and `boundary`
    # does not compare the last row and column with anything.
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    return slice(top, int(rows[-1]) + 2), slice(left, int(columns[-1]) + 2)
