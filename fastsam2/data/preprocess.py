"""Preprocessing: resize a frame to a square and normalise it to float32.

Numerically equal to the JPEG path of `sam2/utils/misc.py`, for every kind of source. Frames are
cached and transferred as bytes, and normalised on the device of the model; a GPU also resizes them.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.data.frame_source import Frame, check_array
from fastsam2_kernels.resize import normalize, resize

__all__ = [
    "IMAGE_MEAN",
    "IMAGE_STD",
    "frame_for_device",
    "model_input",
    "preprocess_frame",
    "resize_frame",
]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def resize_frame(image: Frame, image_size: int) -> Frame:
    """Resize an RGB image, uint8 `[H, W, 3]`, to uint8 `[image_size, image_size, 3]`."""
    image = check_array(image, "the image", ndim=3)
    return np.array(Image.fromarray(image).resize((image_size, image_size)))


def frame_for_device(image: Frame, image_size: int, device: torch.device) -> Tensor:
    """Copy an RGB image, uint8 `[H, W, 3]`, for `model_input` on a device.

    Returns:
        uint8 on the CPU: the whole image in pinned memory for a GPU, which resizes it faster;
        `[image_size, image_size, 3]` for other devices.
    """
    if device.type == "cuda":
        image = check_array(image, "the image", ndim=3)
        # PyTorch refuses negative strides, as of BGR read as RGB, and warns of read-only memory.
        return torch.from_numpy(np.require(image, requirements=["C", "W"])).pin_memory()
    return torch.from_numpy(resize_frame(image, image_size))


def model_input(image: Tensor, image_size: int) -> Tensor:
    """Resize and normalise uint8 `[H, W, 3]` to float32 `[3, image_size, image_size]`, on the same
    device."""
    if image.shape[:2] == (image_size, image_size):
        return normalize(image[None], IMAGE_MEAN, IMAGE_STD)[0]
    return resize(image[None], (image_size, image_size), IMAGE_MEAN, IMAGE_STD)[0]


def preprocess_frame(image: Frame, image_size: int) -> Tensor:
    """Convert an RGB image, uint8 `[H, W, 3]`, to the model's input.

    Returns:
        Float32 `[3, image_size, image_size]`.

    Raises:
        VideoError: an image of another dtype or shape.
    """
    return model_input(torch.from_numpy(resize_frame(image, image_size)), image_size)
