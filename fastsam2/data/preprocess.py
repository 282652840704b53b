"""Preprocessing: resize a frame to a square and normalise it to float32.

Numerically equal to the JPEG path of `sam2/utils/misc.py`, for every kind of source. Frames are
cached and transferred as bytes, and normalised on the device of the model.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.data.frame_source import Frame, check_array
from fastsam2_kernels.resize import normalize

__all__ = ["IMAGE_MEAN", "IMAGE_STD", "normalize_frame", "preprocess_frame", "resize_frame"]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def resize_frame(image: Frame, image_size: int) -> Frame:
    """Resize an RGB image, uint8 `[H, W, 3]`, to uint8 `[image_size, image_size, 3]`."""
    image = check_array(image, "the image", ndim=3)
    return np.array(Image.fromarray(image).resize((image_size, image_size)))


def normalize_frame(image: Tensor) -> Tensor:
    """Normalise uint8 `[S, S, 3]` to float32 `[3, S, S]`, on the same device."""
    return normalize(image[None], IMAGE_MEAN, IMAGE_STD)[0]


def preprocess_frame(image: Frame, image_size: int) -> Tensor:
    """Convert an RGB image, uint8 `[H, W, 3]`, to the model's input.

    Returns:
        Float32 `[3, image_size, image_size]`.

    Raises:
        VideoError: an image of another dtype or shape.
    """
    return normalize_frame(torch.from_numpy(resize_frame(image, image_size)))
