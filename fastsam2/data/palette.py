"""Colours: the DAVIS palette of label images, and the colours of overlays."""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt

__all__ = ["davis_palette", "object_color"]

# Ordered so that the first few are easy to distinguish on photographs.
_VIVID = (
    (30, 144, 255),
    (255, 159, 28),
    (46, 204, 113),
    (239, 71, 111),
    (155, 93, 229),
    (0, 206, 209),
    (255, 221, 51),
    (255, 112, 67),
    (244, 114, 208),
    (141, 198, 63),
)
_GOLDEN_RATIO = 0.618034


def davis_palette() -> npt.NDArray[np.uint8]:
    """Return the palette `[256, 3]` of DAVIS and Pascal VOC label images; label 0 is black.

    Bit 3k + c of a label, for colour channel c, is bit 7 - k of that channel.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            set_here = (labels >> (3 * bit + channel)) & 1
            palette[:, channel] |= (set_here << (7 - bit)).astype(np.uint8)
    return palette


def object_color(obj_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of an object, the same in every frame and every run."""
    index = obj_id - 1
    if 0 <= index < len(_VIVID):
        return _VIVID[index]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
