"""Backgrounds: textured regions with clutter, and the camera motion over them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastsam2.nano.levels import Level
from fastsam2.nano.motion import Motion
from fastsam2.nano.shapes import random_shape
from fastsam2.nano.sprites import (
    Look,
    make_sprite,
    muted_look,
    paint,
    random_look,
    stranger,
    textured,
    varied,
)
from fastsam2.nano.textures import crop, texture_bank

__all__ = ["Background", "make_background"]

Frame = npt.NDArray[np.uint8]
Series = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Background:
    """Canvas larger than the frame, RGB uint8 `[C, C, 3]`, and the view of each frame, `[T]` each.

    `x`, `y` are the centre of the frame in the canvas, `zoom` is a factor, `roll` is in radians.
    """

    canvas: Frame
    x: Series
    y: Series
    zoom: Series
    roll: Series

    def view(self, t: int, size: int) -> Frame:
        """Return the background of frame `t`, a writable `[size, size, 3]`."""
        x, y = float(self.x[t]), float(self.y[t])
        if self.roll[t] == 0 and self.zoom[t] == 1 and x == int(x) and y == int(y):
            left, top = int(x) - size // 2, int(y) - size // 2
            return self.canvas[top : top + size, left : left + size].copy()
        a, b = (
            float(np.cos(self.roll[t]) / self.zoom[t]),
            float(np.sin(self.roll[t]) / self.zoom[t]),
        )
        half = size / 2
        matrix = (a, b, x - (a + b) * half, -b, a, y + (b - a) * half)
        image = Image.fromarray(self.canvas)
        seen = image.transform(
            (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        return np.array(seen)


def make_background(
    rng: np.random.Generator, level: Level, frames: int, size: int, looks: list[Look]
) -> Background:
    """Make a random background with camera motion; its clutter may use `looks`."""
    t = np.arange(frames, dtype=np.float64)
    speed = float(rng.uniform(*level.pan)) * size if rng.random() < 0.75 else 0.0
    direction = float(rng.uniform(0, 2 * np.pi))
    margin = 0.14 * size
    # Pan back and forth within the margin.
    swing = margin * np.sin(speed * t / margin + rng.uniform(0, 6.28)) if speed else 0 * t
    shake = level.shake * size * np.cumsum(rng.normal(size=(2, frames)), axis=1) * 0.3
    shake -= shake.mean(axis=1, keepdims=True)
    shake = np.clip(shake, -0.03 * size, 0.03 * size)
    period = max(30, frames) * float(rng.uniform(0.5, 1.5))
    beat = np.sin(2 * np.pi * t / period + rng.uniform(0, 6.28))
    zoom = 1 + float(rng.uniform(0, level.zoom)) * beat
    roll = float(rng.uniform(-level.roll, level.roll)) * np.cos(2 * np.pi * t / period)
    reach = (0.5 + level.roll * 0.6) / (1 - level.zoom) * size
    spare = (margin if speed else 0) + (0.03 * size if level.shake else 0) + 3
    side = 2 * int(reach + spare)
    canvas = _canvas(rng, level, side, size, looks)
    middle = side / 2
    return Background(
        canvas=canvas,
        x=middle + swing * np.cos(direction) + shake[0],
        y=middle + swing * np.sin(direction) + shake[1],
        zoom=zoom,
        roll=roll,
    )


def _canvas(
    rng: np.random.Generator, level: Level, side: int, size: int, looks: list[Look]
) -> Frame:
    contrast = float(rng.uniform(*level.contrast))
    scene = Image.fromarray(_surface(rng, level, side, contrast))
    bank = texture_bank()
    for _ in range(int(rng.integers(level.regions[0], level.regions[1] + 1)) - 1):
        if rng.random() < 0.5:
            tile = bank["soft"][int(rng.integers(len(bank["soft"])))]
            height = crop(tile, rng, float(rng.uniform(0.4, 0.9)), side, side) / np.float32(48)
        else:  # straight edge, such as a horizon or a wall
            angle = float(rng.uniform(0, 2 * np.pi))
            ramp = np.linspace(-1, 1, side, dtype=np.float32)
            height = ramp * np.float32(np.cos(angle)) + ramp[:, None] * np.float32(np.sin(angle))
            height *= np.float32(2)
        border = np.quantile(height[::8, ::8], float(rng.uniform(0.3, 0.7)))
        cover = np.clip((height - border) * np.float32(51 * side) + np.float32(128), 0, 255)
        region = Image.fromarray(_surface(rng, level, side, contrast))
        scene.paste(region, mask=Image.fromarray(cover.astype(np.uint8)))
    # Light gradient over the scene.
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    tilt = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    light = 1 + ramp * tilt[0] + ramp[:, None] * tilt[1]
    canvas = np.minimum(np.asarray(scene) * light[..., None], 255).astype(np.uint8)
    nothing = np.zeros((side, side), np.uint8)
    one = np.ones(1)
    for _ in range(int(rng.integers(level.clutter[0], level.clutter[1] + 1))):
        radius = float(rng.uniform(0.04, 0.2)) * size
        if looks and rng.random() < 0.5 * level.look_alike:
            look = varied(rng, looks[int(rng.integers(len(looks)))], 0.2)
            shape = random_shape(rng, complexity=level.complexity)
            sprite = make_sprite(rng, shape, look, radius)
        else:
            sprite = stranger(rng)
        x, y = rng.uniform(0, side, 2)
        still = Motion(x * one, y * one, radius * one, rng.uniform(0, 6.28) * one, one)
        paint(canvas, nothing, sprite, still, 0, 0)
    return canvas


def _surface(rng: np.random.Generator, level: Level, side: int, contrast: float) -> Frame:
    muted = level.vivid or rng.random() < 0.5
    look = (
        muted_look(rng, contrast)
        if muted
        else _subdued(rng, random_look(rng, level.two_tone), contrast)
    )
    return textured(rng, look, side, side)


def _subdued(rng: np.random.Generator, look: Look, contrast: float) -> Look:
    """Return `look` with less contrast and saturation, since backgrounds are mostly duller."""
    kept = np.float32(rng.uniform(0.2, 0.9))
    palettes = []
    for palette in look.palettes:
        mean = palette.mean(axis=0)
        palette = mean + (palette - mean) * np.float32(contrast)
        grey = palette.mean(axis=1, keepdims=True)
        palettes.append(grey + (palette - grey) * kept)
    return replace(look, palettes=tuple(palettes))
