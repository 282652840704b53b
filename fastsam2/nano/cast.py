"""Choose the looks, shapes, start positions and order of the objects in a scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fastsam2.nano.levels import Level
from fastsam2.nano.motion import Motion, absent_windows, behind, leaving, wander
from fastsam2.nano.scene import Layer
from fastsam2.nano.shapes import Shape, blob, random_shape
from fastsam2.nano.sprites import Look, make_sprite, random_look, stranger, varied, vivid_look

__all__ = ["camouflaged", "cast_layers", "cast_looks", "cast_shapes"]

Frame = npt.NDArray[np.uint8]
Generator = np.random.Generator


def cast_looks(rng: Generator, level: Level, count: int) -> list[Look]:
    """Choose a look for each object; at vivid levels the hues are spread evenly."""
    looks: list[Look] = []
    hue = float(rng.random())
    for index in range(count):
        if level.vivid:
            looks.append(vivid_look(rng, hue + index / count + float(rng.uniform(-0.04, 0.04))))
        elif looks and rng.random() < level.look_alike:
            looks.append(varied(rng, looks[int(rng.integers(index))], 0.1))
        else:
            looks.append(random_look(rng, level.two_tone))
    return looks


def camouflaged(rng: Generator, level: Level, looks: list[Look], canvas: Frame) -> list[Look]:
    """Recolour some of the looks with slightly varied colours of the background."""
    result = []
    for look in looks:
        if rng.random() < level.camouflage:
            pixels = canvas.reshape(-1, 3)
            taken = pixels[rng.integers(len(pixels), size=256)].astype(np.float32)
            # Sorted by brightness, to preserve the texture.
            palette = taken[np.argsort(taken.sum(axis=1), kind="stable")]
            palette = palette.reshape(16, 16, 3).mean(axis=1).repeat(16, axis=0)
            look = varied(rng, replace(look, palettes=(palette,) * len(look.kinds)), 0.25)
        result.append(look)
    return result


def cast_shapes(rng: Generator, level: Level, count: int) -> list[Shape]:
    """Choose the outline of each object; look-alikes may share one."""
    shapes: list[Shape] = []
    for index in range(count):
        if shapes and rng.random() < 0.5 * level.look_alike:
            shapes.append(shapes[int(rng.integers(index))])
        else:
            shapes.append(random_shape(rng, complexity=level.complexity))
    return shapes


def cast_layers(
    rng: Generator,
    level: Level,
    frames: int,
    size: int,
    looks: list[Look],
    shapes: list[Shape],
    apart: bool,
) -> tuple[Layer, ...]:
    """Return the objects (labels 1 and up), distractors and occluders, from back to front.

    With `apart`, objects start in separate cells of a grid and are sized to fit, without
    distractors; the only occluders are those that hide an object later.
    """
    count = len(looks)
    # The more objects, the smaller, so that all are visible.
    crowd = min(1.0, 2 / np.sqrt(count + 1))
    low, high = (edge * crowd for edge in level.diameter)
    diameters = [size * float(low * (high / low) ** rng.random()) for _ in range(count)]
    if apart:
        diameters = [0.85 * size / float(np.ceil(np.sqrt(count)))] * count
        level = replace(level, swing=0.0)
    starts = _starts(rng, diameters, size, apart)
    layers: list[Layer] = []
    occluders: list[Layer] = []
    for index, (look, shape, diameter) in enumerate(zip(looks, shapes, diameters, strict=True)):
        motion = wander(rng, level, frames, size, diameter, starts[index])
        windows = absent_windows(rng, frames) if rng.random() < level.absences else []
        if windows:
            if rng.random() < 0.4 and diameter < 0.3 * size:
                occluder = _occluder(rng, level, motion, windows, size)
                occluders.append(occluder)
            else:
                motion = leaving(rng, motion, windows, size, level.leave_frames)
        sprite = make_sprite(rng, shape, look, diameter / 2)
        layers.append(Layer(sprite, motion, index + 1))
    order = rng.permutation(count)
    layers = [layers[index] for index in order]
    if not apart:
        for _ in range(int(rng.integers(level.distractors[0], level.distractors[1] + 1))):
            place = int(rng.integers(len(layers) + 1))
            layers.insert(place, _stranger(rng, level, frames, size, looks, shapes))
        for _ in range(int(rng.integers(level.occluders[0], level.occluders[1] + 1))):
            layers.append(_stranger(rng, level, frames, size, [], shapes))
    return (*layers, *occluders)


def _starts(
    rng: Generator, diameters: list[float], size: int, apart: bool
) -> list[tuple[float, float]]:
    """Positions on frame 0: cells of a grid, or the farthest apart of a few random draws."""
    if apart:
        cells = int(np.ceil(np.sqrt(len(diameters))))
        return [
            ((index % cells + 0.5) * size / cells, (index // cells + 0.5) * size / cells)
            for index in range(len(diameters))
        ]
    starts: list[tuple[float, float]] = []
    for diameter in diameters:
        edge = min(0.4 * diameter, 0.45 * size)
        best, best_gap = (size / 2, size / 2), -np.inf
        for _ in range(6):
            x, y = (float(value) for value in rng.uniform(edge, size - edge, 2))
            gap = min(
                (
                    np.hypot(x - ox, y - oy) - (diameter + other) / 2
                    for (ox, oy), other in zip(starts, diameters, strict=False)
                ),
                default=0.0,
            )
            if gap > best_gap:
                best, best_gap = (x, y), gap
        starts.append(best)
    return starts


def _stranger(
    rng: Generator,
    level: Level,
    frames: int,
    size: int,
    looks: list[Look],
    shapes: list[Shape],
) -> Layer:
    """Moving distractor (label 0); may look like an object."""
    diameter = size * float(rng.uniform(*level.diameter))
    if looks and rng.random() < level.look_alike:
        index = int(rng.integers(len(looks)))
        look = varied(rng, looks[index], 0.12)
        sprite = make_sprite(rng, shapes[index], look, diameter / 2)
    else:
        sprite = stranger(rng)
    start = rng.uniform(0, size, 2)
    motion = wander(rng, level, frames, size, diameter, (float(start[0]), float(start[1])))
    return Layer(sprite, motion, 0)


def _occluder(
    rng: Generator, level: Level, hidden: Motion, windows: list[tuple[int, int]], size: int
) -> Layer:
    """Occluder (label 0) that covers an object during `windows`."""
    outline = blob(rng, 0.2, 0.9)
    shape = Shape((outline,)).fitted()
    # Inner radius, measured on the outline around the fitted centre.
    theta = np.arange(256) * (2 * np.pi / 256)
    rim_x = outline.radius[::2] * np.cos(theta) - shape.x
    rim_y = outline.radius[::2] * np.sin(theta) - shape.y
    inner = 0.97 * float(np.hypot(rim_x, rim_y).min()) / shape.radius
    motion = behind(rng, hidden, windows, size, level.leave_frames * 2, inner)
    look = vivid_look(rng, float(rng.random())) if level.vivid else random_look(rng, level.two_tone)
    if level.vivid:
        look = varied(rng, replace(look, palettes=tuple(p * 0.3 + 60 for p in look.palettes)), 0.1)
    return Layer(make_sprite(rng, shape, look, float(motion.radius[0])), motion, 0)
