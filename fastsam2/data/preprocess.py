"""Preprocessing: resize a frame to a square and normalise it to float32.

Numerically equal to the JPEG path of `sam2/utils/misc.py`, for every kind of source. Each output
value depends on one byte only, so normalising is a look-up in a table of 3 x 256 numbers: exact on
every device, and frames are transferred as bytes.
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
    """Normalised value of each byte in each channel, float32 `[3, 256]`."""
    unit = torch.from_numpy(np.arange(256) / 255.0).to(torch.float32)
    mean = torch.tensor(IMAGE_MEAN, dtype=torch.float32)[:, None]
    std = torch.tensor(IMAGE_STD, dtype=torch.float32)[:, None]
    return (unit - mean) / std


_TABLE = _table()


def resize_frame(image: Frame, image_size: int) -> Frame:
    """Resize an RGB image, uint8 `[H, W, 3]`, to uint8 `[image_size, image_size, 3]`."""
    image = check_array(image, "the image", ndim=3)
    return np.array(Image.fromarray(image).resize((image_size, image_size)))


def normalize_frame(image: Tensor) -> Tensor:
    """Normalise uint8 `[S, S, 3]` to float32 `[3, S, S]`, on the same device."""
    if image.device.type == "cpu":  # NumPy's look-up is several times faster than torch's
        table, pixels = _TABLE.numpy(), image.numpy()
        planes = np.empty((3, *image.shape[:2]), np.float32)
        for channel in range(3):
            np.take(table[channel], pixels[..., channel], out=planes[channel], mode="clip")
        return torch.from_numpy(planes)
    return _look_up(image)


@cache
def _table_on(device: torch.device) -> Tensor:
    # Not an inference tensor: the cached table is also used outside inference mode.
    with torch.inference_mode(False):
        return _TABLE.to(device)


def _look_up(image: Tensor) -> Tensor:
    table = _table_on(image.device)
    indices = image.permute(2, 0, 1).to(torch.int32)
    return torch.stack([table[channel][plane] for channel, plane in enumerate(indices)])


def preprocess_frame(image: Frame, image_size: int) -> Tensor:
    """Convert an RGB image, uint8 `[H, W, 3]`, to the model's input.

    Returns:
        Float32 `[3, image_size, image_size]`.

    Raises:
        VideoError: an image of another dtype or shape.
    """
    return normalize_frame(torch.from_numpy(resize_frame(image, image_size)))
