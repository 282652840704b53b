"""Masks drawn over a frame: a tint, an outline and the object's number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fastsam2.data.frame_source import Frame, check_array
from fastsam2.data.palette import object_color
from fastsam2.data.rle import box_from_mask
from fastsam2.errors import InputError

__all__ = ["draw_overlay"]

Mask = npt.NDArray[np.bool_]


def draw_overlay(
    frame: Frame,
    masks: Mapping[int, Any],
    *,
    alpha: float = 0.4,
    outline: float = 1.0,
    labels: bool = True,
) -> Frame:
    """Draw the mask of each object over `frame`, in a colour of its own.

    Args:
        frame: RGB uint8 `[H, W, 3]`; not modified.
        masks: object id to mask, bool `[H, W]`. Later objects are drawn over earlier ones.
        alpha: strength of the tint, from 0 (none) to 1 (opaque).
        outline: thickness of the outline, relative to 2 pixels at 720p; 0 draws none.
        labels: True to write the object ids.

    Returns:
        A new RGB uint8 frame `[H, W, 3]`.

    Raises:
        InputError: a mask of another size than the frame.
    """
    frame = check_array(frame, "the frame", ndim=3)
    drawn = np.array(frame)
    unit = min(frame.shape[:2]) / 720
    thickness = max(1, round(2 * unit * outline)) if outline > 0 else 0
    anchors: dict[int, tuple[int, int]] = {}
    for obj_id, mask in masks.items():
        mask = np.asarray(mask) != 0
        if mask.shape != frame.shape[:2]:
            raise InputError(
                f"the mask of object {obj_id} is {list(mask.shape)}, "
                f"but the frame is {list(frame.shape[:2])}"
            )
        box = box_from_mask(mask)
        if box is not None:
            anchors[obj_id] = _anchor(mask)
            _tint(drawn, mask, box, object_color(obj_id), alpha, thickness)
    if labels and anchors:
        drawn = _write_labels(drawn, anchors, max(11, round(20 * unit)))
    return drawn


def _tint(
    drawn: Frame,
    mask: Mask,
    box: list[int],
    color: tuple[int, int, int],
    alpha: float,
    thickness: int,
) -> None:
    margin = thickness + 2
    x, y, width, height = box
    rows = slice(max(0, y - margin), y + height + margin)
    window = rows, slice(max(0, x - margin), x + width + margin)
    pixels, inside = drawn[window], mask[window]
    ink = np.array(color, np.float32)
    pixels[inside] = (pixels[inside] * (1 - alpha) + ink * alpha + 0.5).astype(np.uint8)
    if thickness:
        # A dark hairline around the outline keeps it visible on a background of its own colour.
        halo = _grown(inside, max(1, thickness // 2)) & ~inside
        pixels[halo] = (pixels[halo] * 0.45).astype(np.uint8)
        pixels[inside & _grown(~inside, thickness)] = color


def _grown(mask: Mask, steps: int) -> Mask:
    """Dilate `mask` by `steps` pixels; the area outside the frame counts as background."""
    grown = mask.copy()
    for step in range(steps):
        before = grown.copy()
        grown[1:] |= before[:-1]
        grown[:-1] |= before[1:]
        grown[:, 1:] |= before[:, :-1]
        grown[:, :-1] |= before[:, 1:]
        if step % 2:  # alternating crosses and squares approximate a disc
            grown[1:, 1:] |= before[:-1, :-1]
            grown[1:, :-1] |= before[:-1, 1:]
            grown[:-1, 1:] |= before[1:, :-1]
            grown[:-1, :-1] |= before[1:, 1:]
    return grown


def _anchor(mask: Mask) -> tuple[int, int]:
    """Point (x, y) in the topmost row that is at least 15 % as full as the fullest one."""
    counts = mask.sum(axis=1)
    top = int(np.argmax(counts >= 0.15 * counts.max()))
    row = np.flatnonzero(mask[top])
    return int(row[len(row) // 2]), top


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (OSError, ImportError):  # Pillow built without FreeType: a bitmap font of one size
        return ImageFont.load_default()


def _write_labels(drawn: Frame, anchors: Mapping[int, tuple[int, int]], size: int) -> Frame:
    image = Image.fromarray(drawn)
    draw = ImageDraw.Draw(image)
    font = _font(size)
    pad = max(2, size // 4)
    for obj_id, (x, y) in anchors.items():
        text = str(obj_id)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width = max(right - left, bottom - top) + 2 * pad
        height = bottom - top + 2 * pad
        corner_x = min(max(x - width // 2, 0), max(image.width - width, 0))
        corner_y = min(max(y - height - pad, 0), max(image.height - height, 0))
        color = object_color(obj_id)
        draw.rounded_rectangle(
            (corner_x, corner_y, corner_x + width, corner_y + height),
            radius=height // 3,
            fill=color,
            outline=(20, 20, 20),
            width=max(1, size // 16),
        )
        middle = corner_x + (width - (right - left)) / 2 - left
        draw.text((middle, corner_y + pad - top), text, font=font, fill=_readable_on(color))
    return np.array(image)


def _readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = color
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return (20, 20, 20) if luminance > 140 else (255, 255, 255)
