"""Simulated user input for training and evaluation: clicks on errors and noisy boxes.

The sampling schemes are those of SAM 2's training (arXiv 2408.00714, appendix C.2); the centre
click is RITM's (arXiv 2102.06583).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "get_next_point",
    "sample_box_points",
    "sample_one_point_from_error_center",
    "sample_random_points_from_errors",
]


def _errors(gt_masks: Tensor, pred_masks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return false positives and false negatives, bool `[B, 1, H, W]` each."""
    if gt_masks.dtype != torch.bool or gt_masks.ndim != 4 or gt_masks.shape[1] != 1:
        raise ValueError(
            f"gt_masks must be bool [B, 1, H, W], not {gt_masks.dtype} {list(gt_masks.shape)}"
        )
    if pred_masks is None:
        pred_masks = torch.zeros_like(gt_masks)
    if pred_masks.dtype != torch.bool or pred_masks.shape != gt_masks.shape:
        raise ValueError(
            f"pred_masks must be bool {list(gt_masks.shape)}, "
            f"not {pred_masks.dtype} {list(pred_masks.shape)}"
        )
    return pred_masks & ~gt_masks, gt_masks & ~pred_masks


def sample_random_points_from_errors(
    gt_masks: Tensor, pred_masks: Tensor | None, num_pt: int = 1
) -> tuple[Tensor, Tensor]:
    """Sample clicks uniformly from the wrong pixels, or from the background if there are none.

    Args:
        gt_masks: bool `[B, 1, H, W]`.
        pred_masks: bool `[B, 1, H, W]`, or None for nothing predicted.
        num_pt: clicks for each mask.

    Returns:
        Points float32 `[B, num_pt, 2]` as (x, y), labels int32 `[B, num_pt]`: 1 on a false
        negative, 0 on a false positive or background.
    """
    false_pos, false_neg = _errors(gt_masks, pred_masks)
    correct = ~(false_pos | false_neg).flatten(1).any(1)[:, None, None, None]
    candidates = torch.stack([false_pos | (correct & ~gt_masks), false_neg], dim=-1)
    noise = torch.rand(len(gt_masks), num_pt, *candidates.shape[2:], device=gt_masks.device)
    index = (noise * candidates).flatten(2).argmax(2)
    pixel, width = index // 2, gt_masks.shape[-1]
    points = torch.stack([pixel % width, pixel // width], dim=2).float()
    return points, (index % 2).int()


def sample_one_point_from_error_center(
    gt_masks: Tensor, pred_masks: Tensor | None, padding: bool = True
) -> tuple[Tensor, Tensor]:
    """Place one click at the pixel deepest inside the wrong regions.

    Args:
        gt_masks: bool `[B, 1, H, W]`.
        pred_masks: bool `[B, 1, H, W]`, or None for nothing predicted.
        padding: count the image border as a boundary.

    Returns:
        Points float32 `[B, 1, 2]` as (x, y), labels int32 `[B, 1]`.
    """
    false_pos, false_neg = _errors(gt_masks, pred_masks)
    depth_pos, depth_neg = (
        _squared_distance(x[:, 0], padding).flatten(1) for x in (false_pos, false_neg)
    )
    (best_pos, at_pos), (best_neg, at_neg) = depth_pos.max(1), depth_neg.max(1)
    missed = best_neg > best_pos
    pixel, width = torch.where(missed, at_neg, at_pos), gt_masks.shape[-1]
    points = torch.stack([pixel % width, pixel // width], dim=1).float()
    return points[:, None], missed.int()[:, None]


def _squared_distance(masks: Tensor, padding: bool) -> Tensor:
    """Return the squared Euclidean distance of each pixel of bool `[B, H, W]` to the nearest false
    one."""
    if padding:
        masks = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    height, width = masks.shape[-2:]
    far = float(height + width)
    # Along the row: distance to the last and to the next false pixel.
    column = torch.arange(width, device=masks.device, dtype=torch.float32)
    last = torch.where(masks, -far, column).cummax(2).values
    following = torch.where(masks, width + far, column).flip(2).cummin(2).values.flip(2)
    row_sq = torch.minimum(column - last, following - column).clamp(max=far).square()
    # Across rows: the lower envelope of the parabolas, one output row at a time.
    row = torch.arange(height, device=masks.device, dtype=torch.float32)
    out = torch.stack(
        [(row_sq + (row - y).square()[:, None]).amin(1) for y in range(height)], dim=1
    )
    return out[:, 1:-1, 1:-1] if padding else out


def sample_box_points(
    masks: Tensor,
    noise: float = 0.1,
    noise_bound: float = 20,
    top_left_label: int = 2,
    bottom_right_label: int = 3,
) -> tuple[Tensor, Tensor]:
    """Return the bounding boxes of masks, with random noise, as two labelled points.

    Args:
        masks: bool `[B, 1, H, W]`.
        noise: largest shift as a fraction of the box's side.
        noise_bound: largest shift in pixels.

    Returns:
        Points float32 `[B, 2, 2]` as (x, y), labels int32 `[B, 2]`.
    """
    batch, _, height, width = masks.shape
    columns, rows = masks.any(2).squeeze(1), masks.any(3).squeeze(1)

    def extent(line: Tensor) -> tuple[Tensor, Tensor]:
        size = line.shape[1]
        first = torch.where(line.any(1), line.int().argmax(1), size)
        last = torch.where(line.any(1), size - 1 - line.flip(1).int().argmax(1), -1)
        return first, last

    (x0, x1), (y0, y1) = extent(columns), extent(rows)
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    if noise > 0.0:
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        shift = (sides * noise).clamp(max=noise_bound)
        boxes = boxes + (2 * torch.rand_like(boxes) - 1) * shift
        limit = torch.tensor([width, height, width, height], device=masks.device) - 1.0
        boxes = boxes.clamp(min=torch.zeros_like(limit), max=limit)
    labels = torch.tensor([[top_left_label, bottom_right_label]], device=masks.device)
    return boxes.reshape(batch, 2, 2), labels.int().repeat(batch, 1)


def get_next_point(
    gt_masks: Tensor, pred_masks: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """Sample a correcting click.

    Args:
        method: `"uniform"` for a random wrong pixel, `"center"` for the deepest one.

    Raises:
        ValueError: another `method`, or masks of the wrong dtype or shape.
    """
    if method == "uniform":
        return sample_random_points_from_errors(gt_masks, pred_masks)
    if method == "center":
        return sample_one_point_from_error_center(gt_masks, pred_masks)
    raise ValueError(f"unknown sampling method {method!r}; expected 'uniform' or 'center'")
