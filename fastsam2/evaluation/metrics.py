"""How well masks agree: the measures of DAVIS 2017, and a rank statistic for object scores.

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

_TOLERANCE = 0.008  # of the image's diagonal


def jaccard(truth: Any, found: Any) -> Floats:
    """Region similarity J: intersection over union, 1 where both masks are empty.

    Args:
        truth: bool or integer `[..., H, W]`.
        found: the same shape.

    Returns:
        Float64 `[...]`, in 0..1.

    Raises:
        InputError: two shapes, or fewer than two dimensions.
    """
    truth, found = _pair(truth, found)
    both = np.count_nonzero(truth & found, axis=(-2, -1))
    either = np.asarray(np.count_nonzero(truth | found, axis=(-2, -1)))
    # Where both are empty, 1 / 1.
    empty = either == 0
    return np.asarray((both + empty) / (either + empty), np.float64)


def boundary_f(truth: Any, found: Any, radius: int | None = None) -> Floats:
    """Boundary accuracy F: the harmonic mean of the precision and recall of boundary pixels.

    A boundary pixel counts as right if the other mask has one within `radius`. Without boundaries
    in both masks F is 1, without one in either it is 0.

    Args:
        truth: bool or integer `[..., H, W]`.
        found: the same shape.
        radius: pixels; by default `tolerance_radius` of the size.

    Returns:
        Float64 `[...]`, in 0..1.

    Raises:
        InputError: two shapes, or fewer than two dimensions.
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
    """How far apart boundaries may lie, in pixels: 0.8 % of the diagonal, rounded up."""
    return math.ceil(_TOLERANCE * float(np.linalg.norm((height, width))))


def boundary(mask: Mask) -> Mask:
    """The pixels of bool `[H, W]` that differ from the one to the right, below, or both.

    Half a pixel up and to the left of the true boundary, as `seg2bmap` of the toolkit (and of the
    Berkeley segmentation benchmark before it). The image's own edge is no boundary.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def dilate(mask: Mask, radius: int) -> Mask:
    """The pixels of bool `[H, W]` no farther than `radius` from one that is set."""
    height = len(mask)
    grown = np.zeros_like(mask)
    row, reach = mask.copy(), 0
    # The disk is a stack of rows. From its top to its middle they only get longer, so that each
    # is made from the one before.
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
    """How well scores tell present objects from absent ones: the area under the ROC curve.

    The probability that a present object scores higher than an absent one, a tie counting half:
    the Mann-Whitney statistic by mean ranks.

    Args:
        scores: `[N]`; NaN for one that is not known, which is left out.
        present: bool `[N]`.

    Returns:
        A number in 0..1; NaN if none is present or none is absent.

    Raises:
        InputError: shapes that do not match.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(present, np.bool_)
    if values.ndim != 1 or values.shape != truth.shape:
        raise InputError(
            f"scores and presence must be [N] each, not {list(values.shape)} and "
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
            "masks to compare must be [..., H, W] of one shape, not "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    return first.astype(np.bool_, copy=False), second.astype(np.bool_, copy=False)


def _window(mask: Mask) -> tuple[slice, slice] | None:
    """The part of bool `[H, W]` outside of which there is no boundary; None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    # One pixel more on each side, where there is one: the boundary lies before the mask, and the
    # last row and column are compared with nothing.
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    return slice(top, int(rows[-1]) + 2), slice(left, int(columns[-1]) + 2)
