"""Validation of video prompts and their conversion to the model's coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.errors import InputError
from fastsam2.types import PointPrompt

__all__ = ["join_points", "mask_prompt", "point_prompt"]


def _tensor(value: Any, what: str) -> Tensor:
    """Convert `value` to a finite float32 CPU tensor."""
    try:
        if isinstance(value, Tensor):
            tensor = value.detach().to("cpu", torch.float32)
        else:
            tensor = torch.from_numpy(np.asarray(value, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers: {error}") from None
    if not torch.isfinite(tensor).all():
        raise InputError(f"{what} must be finite, not {tensor.tolist()}")
    return tensor


def point_prompt(
    points: Any,
    labels: Any,
    box: Any,
    *,
    video_size: tuple[int, int] | None,
    image_size: int,
    device: torch.device,
) -> PointPrompt:
    """Convert clicks and a box to one row of labelled points, the box's corners first.

    Args:
        points: (x, y) `[P, 2]` or `[1, P, 2]`, or None.
        labels: 1 inside, 0 outside the object, `[P]` or `[1, P]`.
        box: (x0, y0, x1, y1), or None.
        video_size: (height, width) of the video if coordinates are in its pixels; None if they are
            fractions.
        image_size: side of the model's input in pixels.

    Raises:
        InputError: neither points nor box, points without labels or the reverse, mismatched shapes,
            unknown labels, or values that are not finite.
    """
    if (points is None) != (labels is None):
        given, missing = ("labels", "points") if points is None else ("points", "labels")
        raise InputError(f"points and labels must be provided together: {given} without {missing}")
    if points is None and box is None:
        raise InputError("at least one of points or box must be provided")
    coords = torch.zeros(1, 0, 2)
    kinds = torch.zeros(1, 0, dtype=torch.int32)
    if points is not None:
        coords, marks = _tensor(points, "points"), _tensor(labels, "labels")
        if coords.numel() == 0:
            coords = coords.reshape(1, 0, 2)
        coords = coords[None] if coords.ndim == 2 else coords
        marks = marks[None] if marks.ndim == 1 else marks
        if coords.ndim != 3 or len(coords) != 1 or coords.shape[2] != 2:
            raise InputError(f"points must be [P, 2] or [1, P, 2], not {list(coords.shape)}")
        if marks.shape != coords.shape[:2]:
            raise InputError(f"{coords.shape[1]} points but labels of shape {list(marks.shape)}")
        known = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0])
        if not torch.isin(marks, known).all():
            raise InputError(f"labels must be 1 (object) or 0 (background), not {marks.tolist()}")
        kinds = marks.int()
    if box is not None:
        corners = _tensor(box, "box")
        if corners.numel() != 4:
            raise InputError(f"box must be (x0, y0, x1, y1), not of shape {list(corners.shape)}")
        coords = torch.cat([corners.reshape(1, 2, 2), coords], dim=1)
        kinds = torch.cat([torch.tensor([[2, 3]], dtype=torch.int32), kinds], dim=1)
    if video_size is not None:
        height, width = video_size
        coords = coords / torch.tensor([width, height])
    return PointPrompt((coords * image_size).to(device), kinds.to(device))


def join_points(old: PointPrompt | None, new: PointPrompt) -> PointPrompt:
    """Append the `new` points to the `old` ones."""
    if old is None:
        return new
    return PointPrompt(
        torch.cat([old.point_coords, new.point_coords], dim=1),
        torch.cat([old.point_labels, new.point_labels], dim=1),
    )


def mask_prompt(mask: Any, *, image_size: int, device: torch.device) -> Tensor:
    """Convert a mask to float32 `[1, 1, S, S]`, 0 or 1 after resizing.

    Args:
        mask: `[H, W]` of bool or numbers: nonzero is object. As in `sam2`, float tensors keep their
            values, and are thresholded at 0.5 if they are resized.

    Raises:
        InputError: another shape, no pixels, or floats that are negative, as logits are, or NaN.
    """
    if not isinstance(mask, Tensor):
        array = np.asarray(mask)
        if array.dtype.kind not in "buif":
            raise InputError(f"mask must be bool or numbers, not {array.dtype}")
        if array.dtype.kind == "f":
            _check_values(array)
        mask = torch.from_numpy(array != 0)
    if mask.ndim != 2 or mask.numel() == 0:
        raise InputError(f"mask must be [H, W], not of shape {list(mask.shape)}")
    if mask.is_floating_point():
        _check_values(mask)
    else:
        mask = mask != 0
    mask = mask[None, None].to(device).float()
    if mask.shape[-2:] == (image_size, image_size):
        return mask
    size = (image_size, image_size)
    return (F.interpolate(mask, size, mode="bilinear", antialias=True) >= 0.5).float()


def _check_values(mask: Any) -> None:
    # Written so that NaN fails as well.
    if not bool((mask >= 0).all()):
        raise InputError(f"mask must not be negative, but is {mask.min():g} to {mask.max():g}")
