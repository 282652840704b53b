"""Validation of image prompts and their conversion to tensors."""

from __future__ import annotations

from typing import Any

import torch

from fastsam2.errors import InputError

__all__ = ["check_counts", "describe", "read_boxes", "read_masks", "read_points"]


def read_points(
    coords: Any, labels: Any | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert points [P, 2] or [N, P, 2] and labels [P] or [N, P] to float32 [N, P, 2] and int32
    [N, P].

    Raises:
        InputError: labels are missing, shapes do not match, or values are not finite numbers.
    """
    if labels is None:
        raise InputError("point_coords were given without point_labels")
    points = _read("point_coords", coords, torch.float32, device)
    labels = _read("point_labels", labels, torch.int32, device)
    if points.ndim not in (2, 3) or points.shape[-1] != 2:
        raise InputError(
            f"point_coords must be [P, 2] or [N, P, 2], got shape {tuple(points.shape)}"
        )
    if labels.shape != points.shape[:-1]:
        raise InputError(
            f"point_labels of shape {tuple(labels.shape)} do not match point_coords of shape "
            f"{tuple(points.shape)}"
        )
    return (points, labels) if points.ndim == 3 else (points[None], labels[None])


def read_boxes(boxes: Any, device: torch.device) -> torch.Tensor:
    """Convert boxes [4], [N, 4] or [N, 2, 2] to corners, float32 [N, 2, 2].

    Raises:
        InputError: another shape, or values that are not finite numbers.
    """
    corners = _read("box", boxes, torch.float32, device)
    if corners.numel() == 0 or not (corners.shape[-1:] == (4,) or corners.shape[-2:] == (2, 2)):
        raise InputError(f"box must be [4] or [N, 4], got shape {tuple(corners.shape)}")
    return corners.reshape(-1, 2, 2)


def read_masks(masks: Any, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Convert logits [h, w], [1, h, w] or [N, 1, h, w] of the given size to float32 [N, 1, h, w].

    Raises:
        InputError: another shape, or values that are not finite numbers.
    """
    logits = _read("mask_input", masks, torch.float32, device)
    if logits.ndim not in (2, 3, 4) or logits.shape[-2:] != torch.Size(size):
        raise InputError(
            f"mask_input must be [1, {size[0]}, {size[1]}], got shape {tuple(logits.shape)}"
        )
    logits = logits[(None,) * (4 - logits.ndim)]
    if logits.shape[1] != 1:
        raise InputError(
            f"mask_input must hold one mask for each prompt, got {logits.shape[1]}: choose one, "
            "as in logits[i : i + 1]"
        )
    return logits


def check_counts(
    points: torch.Tensor | None, boxes: torch.Tensor | None, masks: torch.Tensor | None
) -> None:
    """Check that all prompts are for the same number of objects; one mask may serve all of them.

    Raises:
        InputError: the numbers differ.
    """
    counts = {
        name: len(prompt)
        for name, prompt in (("points", points), ("boxes", boxes))
        if prompt is not None
    }
    if masks is not None and not (counts and len(masks) == 1):
        counts["masks"] = len(masks)
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} for {count}" for name, count in counts.items())
        raise InputError(f"prompts must be for the same number of objects, got {found}")


def _read(name: str, value: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers ({error}): {describe(value)}") from None
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise InputError(f"{name} must be finite, got {describe(value)}")
    return tensor.to(device, dtype)


def describe(value: Any) -> str:
    """Format `value` on one line of at most 203 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
