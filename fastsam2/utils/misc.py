"""Helpers on masks, points and frames, with the names of `sam2.utils.misc`."""

from __future__ import annotations

import torch
from tqdm import tqdm

from fastsam2.engine.postprocess import fill_holes
from fastsam2.errors import InputError
from fastsam2.utils.frames import (
    AsyncVideoFrameLoader,
    _load_img_as_tensor,
    load_video_frames,
    load_video_frames_from_jpg_images,
    load_video_frames_from_video_file,
)
from fastsam2_kernels.connected_components import connected_components
from fastsam2_kernels.mask_output import boxes_of, pack_bits

__all__ = [
    "AsyncVideoFrameLoader",
    "_load_img_as_tensor",
    "concat_points",
    "fill_holes_in_mask_scores",
    "get_connected_components",
    "get_sdpa_settings",
    "load_video_frames",
    "load_video_frames_from_jpg_images",
    "load_video_frames_from_video_file",
    "mask_to_box",
    "tqdm",
]


def get_sdpa_settings() -> tuple[bool, bool, bool]:
    """Return three flags: the GPU is older than Ampere, flash attention can run, the math kernel
    is needed."""
    flash = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    return not flash, flash, not flash


def get_connected_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels and areas (pixels) of the 8-connected components of `mask` [N, 1, H, W].

    Both are int32 of the same shape, 0 in the background.
    """
    return connected_components(mask != 0)


def mask_to_box(masks: torch.Tensor) -> torch.Tensor:
    """Return the boxes (x0, y0, x1, y1), inclusive, of bool `masks` [..., H, W] as int32 [..., 4].

    An empty mask has the box (W, H, -1, -1).
    """
    height, width = masks.shape[-2:]
    boxes = boxes_of(pack_bits(masks.reshape(-1, height, width)))
    empty = boxes.new_tensor([width, height, -1, -1])
    return boxes.where(boxes[:, 2:3] >= 0, empty).view(*masks.shape[:-2], 4)


def fill_holes_in_mask_scores(mask: torch.Tensor, max_area: int) -> torch.Tensor:
    """Raise the holes of mask logits [N, 1, H, W] to 0.1.

    Holes are connected components of logits <= 0 with at most `max_area` pixels. `sam2` skips this
    step without its CUDA extension; this function always fills them.

    Raises:
        InputError: `max_area` is not positive.
    """
    if not max_area > 0:
        raise InputError(f"max_area must be positive, got {max_area}")
    return fill_holes(mask, max_area)


def concat_points(
    old_point_inputs: dict[str, torch.Tensor] | None,
    new_points: torch.Tensor,
    new_labels: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Append points [B, N, 2] and labels [B, N] to `{"point_coords", "point_labels"}`."""
    points, labels = [new_points], [new_labels]
    if old_point_inputs is not None:
        points.insert(0, old_point_inputs["point_coords"])
        labels.insert(0, old_point_inputs["point_labels"])
    return {"point_coords": torch.cat(points, dim=1), "point_labels": torch.cat(labels, dim=1)}
