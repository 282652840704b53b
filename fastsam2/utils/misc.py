"""Helpers on masks, points and frames, with the names of `sam2.utils.misc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fastsam2.data.loader import FrameLoader
from fastsam2.data.open_frames import open_frames
from fastsam2.data.preprocess import IMAGE_MEAN, IMAGE_STD
from fastsam2.engine.postprocess import fill_holes
from fastsam2.errors import InputError
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


def get_connected_components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and areas (pixels) of the 8-connected components of `mask` [N, 1, H, W].

    Both are int32 of the same shape, 0 in the background.
    """
    return connected_components(mask != 0)


def mask_to_box(masks: Tensor) -> Tensor:
    """Return the boxes (x0, y0, x1, y1), inclusive, of bool `masks` [..., H, W] as int32 [..., 4].

    An empty mask has the box (W, H, -1, -1).
    """
    height, width = masks.shape[-2:]
    boxes = boxes_of(pack_bits(masks.reshape(-1, height, width)))
    empty = boxes.new_tensor([width, height, -1, -1])
    return boxes.where(boxes[:, 2:3] >= 0, empty).view(*masks.shape[:-2], 4)


def fill_holes_in_mask_scores(mask: Tensor, max_area: int) -> Tensor:
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
    old_point_inputs: dict[str, Tensor] | None,
    new_points: Tensor,
    new_labels: Tensor,
) -> dict[str, Tensor]:
    """Append points [B, N, 2] and labels [B, N] to `{"point_coords", "point_labels"}`."""
    points, labels = [new_points], [new_labels]
    if old_point_inputs is not None:
        points.insert(0, old_point_inputs["point_coords"])
        labels.insert(0, old_point_inputs["point_labels"])
    return {"point_coords": torch.cat(points, dim=1), "point_labels": torch.cat(labels, dim=1)}


def _check_normalisation(mean: Any, std: Any) -> None:
    for name, value, known in (("img_mean", mean, IMAGE_MEAN), ("img_std", std, IMAGE_STD)):
        given = torch.as_tensor(value, dtype=torch.float32).flatten()
        if given.shape != (3,) or not torch.allclose(given, torch.tensor(known)):
            raise InputError(f"{name} is {given.tolist()}, but SAM 2 was trained with {known}")


def load_video_frames(
    video_path: Any,
    image_size: int,
    offload_video_to_cpu: bool,
    img_mean: Any = IMAGE_MEAN,
    img_std: Any = IMAGE_STD,
    async_loading_frames: bool = False,
    compute_device: torch.device | str | None = None,
) -> tuple[FrameLoader, int, int]:
    """Open a video; frames are decoded on request, and a few of them ahead.

    Args:
        video_path: any input of `fastsam2.data.open_frames.open_frames`.
        image_size: side S of the model's input in pixels.
        offload_video_to_cpu: return frames on the CPU instead of on `compute_device`.
        async_loading_frames: start to load the first frames at once.

    Returns:
        The frames, float32 `[3, S, S]` each, and the video's height and width.

    Raises:
        VideoError: the video cannot be read.
        InputError: `img_mean` and `img_std` are not those of the model.
    """
    _check_normalisation(img_mean, img_std)
    device = "cpu" if offload_video_to_cpu or compute_device is None else compute_device
    loader = FrameLoader(open_frames(video_path), image_size, device=device)
    if async_loading_frames:
        loader[0]
    return loader, loader.video_height, loader.video_width


# `open_frames` detects the kind of video, so one loader serves all.
load_video_frames_from_jpg_images = load_video_frames
load_video_frames_from_video_file = load_video_frames


class AsyncVideoFrameLoader(FrameLoader):
    """Frames of a list of image files; `load_video_frames` accepts more kinds of input."""

    def __init__(
        self,
        img_paths: Sequence[str | Path],
        image_size: int,
        offload_video_to_cpu: bool,
        img_mean: Any,
        img_std: Any,
        compute_device: torch.device | str,
    ) -> None:
        _check_normalisation(img_mean, img_std)
        device = "cpu" if offload_video_to_cpu else compute_device
        super().__init__(open_frames(list(img_paths)), image_size, device=device)
        self[0]


def _load_img_as_tensor(img_path: str | Path, image_size: int) -> tuple[Tensor, int, int]:
    """Load an image file as float64 `[3, S, S]` from 0 to 1; returns it with its height and
    width."""
    with Image.open(img_path) as image:
        width, height = image.size
        resized = np.asarray(image.convert("RGB").resize((image_size, image_size)))
    return torch.from_numpy(resized / 255.0).permute(2, 0, 1), height, width
