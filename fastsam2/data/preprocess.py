"""Frames as the model wants them: square, normalised, float32.

Numerically this is the JPEG path of `sam2/utils/misc.py`, for every kind of source. A channel of
the result depends on one byte only, so normalising is a look-up in a table of 3 x 256 numbers,
which is as exact on a GPU as it is on the CPU, and lets a frame travel as bytes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsam2.data.frame_source import Frame, check_array

__all__ = ["IMAGE_MEAN", "IMAGE_STD", "normalize_frame", "preprocess_frame", "resize_frame"]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def _table() -> Tensor:
    """Normalised value `[3, 256]` of each byte in each channel."""
    unit = torch.from_numpy(np.arange(256) / 255.0).to(torch.float32)
    mean = torch.tensor(IMAGE_MEAN, dtype=torch.float32)[:, None]
    std = torch.tensor(IMAGE_STD, dtype=torch.float32)[:, None]
    return (unit - mean) / std


_TABLE = _table()


def resize_frame(image: Frame, image_size: int) -> Frame:
    """An RGB image, uint8 `[H, W, 3]`, resized to uint8 `[image_size, image_size, 3]`."""
    image = check_array(image, "the image", ndim=3)
    return np.array(Image.fromarray(image).resize((image_size, image_size)))


def normalize_frame(image: Tensor) -> Tensor:
    """Bytes `[S, S, 3]` to float32 `[3, S, S]`, on the same device."""
    if image.device.type == "cpu":  # NumPy's look-up is several times faster than torch's
        table, pixels = _TABLE.numpy(), image.numpy()
        planes = np.empty((3, *image.shape[:2]), np.float32)
        for channel in range(3):
            np.take(table[channel], pixels[..., channel], out=planes[channel], mode="clip")
        return torch.from_numpy(planes)
    return _look_up(image)


@cache
def _table_on(device: torch.device) -> Tensor:
    # Used in and out of inference mode.
    with torch.inference_mode(False):
        return _TABLE.to(device)


def _look_up(image: Tensor) -> Tensor:
    table = _table_on(image.device)
    indices = image.permute(2, 0, 1).to(torch.int32)
    return torch.stack([table[channel][plane] for channel, plane in enumerate(indices)])


def preprocess_frame(image: Frame, image_size: int) -> Tensor:
    """The model's input float32 `[3, image_size, image_size]` for an RGB image, uint8 `[H, W, 3]`.

    Raises:
        VideoError: an image of another dtype or shape.
    """
    return normalize_frame(torch.from_numpy(resize_frame(image, image_size)))
