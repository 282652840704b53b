"""Sprites: an outline and a texture in one small image, painted onto frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastsam2.nano.motion import Motion
from fastsam2.nano.shapes import Shape, random_shape
from fastsam2.nano.textures import (
    PLAIN,
    RICH,
    Palette,
    crop,
    hsv_to_rgb,
    make_palette,
    texture_bank,
)

__all__ = [
    "Look",
    "Sprite",
    "make_sprite",
    "muted_look",
    "paint",
    "random_look",
    "stranger",
    "textured",
    "varied",
    "vivid_look",
]

Pixels = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8]

# A sprite extends this many radii from its centre: the outline and a margin around it.
_EXTENT = 1.2
_BANK_SEED = 20240730
_STRANGERS = 128
_SINE = np.sin(np.arange(256) * (2 * np.pi / 256)).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """Appearance: kinds of texture with their palettes; two of them if two-tone."""

    kinds: tuple[str, ...]
    palettes: tuple[Palette, ...]
    extent: float  # visible fraction of a texture tile
    relief: float  # strength of the shading, 0..1


@dataclass(frozen=True)
class Sprite:
    """RGB in 0..255 and signed distance to the outline in radii, `[S * S, 4]`."""

    pixels: Pixels
    side: int


def vivid_look(rng: np.random.Generator, hue: float) -> Look:
    """Saturated colour with a light texture."""
    saturation, value = float(rng.uniform(0.7, 0.95)), float(rng.uniform(0.78, 1.0))
    drift = float(rng.uniform(-0.035, 0.035))
    colors = hsv_to_rgb(
        [
            [hue - drift, saturation * 1.02, value * 0.8],
            [hue, saturation, value * 0.93],
            [hue + drift, saturation * 0.88, value],
        ]
    )
    kind = str(rng.choice([*PLAIN, "ridge", "stripe", "dot", "coat"]))
    return Look((kind,), (make_palette(colors),), float(rng.uniform(0.25, 0.6)), 0.35)


def random_look(rng: np.random.Generator, two_tone: float) -> Look:
    """Random texture and colours; two textures with probability `two_tone`."""
    count = 2 if rng.random() < two_tone else 1
    kinds = tuple(str(kind) for kind in rng.choice(RICH, count))
    palettes = tuple(_random_palette(rng) for _ in range(count))
    return Look(kinds, palettes, float(rng.uniform(0.2, 0.9)), float(rng.uniform(0, 0.6)))


def muted_look(rng: np.random.Generator, contrast: float) -> Look:
    """Greyish look with similar colours, for backgrounds."""
    hue, saturation = float(rng.random()), float(rng.uniform(0.03, 0.25))
    value = float(rng.uniform(0.3, 0.75))
    steps = np.array([-0.5, -0.1, 0.15, 0.5]) * contrast
    colors = hsv_to_rgb([[hue + 0.1 * step, saturation, value * (1 + step)] for step in steps])
    return Look(
        (str(rng.choice(PLAIN)),), (make_palette(colors),), float(rng.uniform(0.45, 1.0)), 0.0
    )


def varied(rng: np.random.Generator, look: Look, amount: float) -> Look:
    """Return `look` with varied colours: darker or lighter, and tinted."""
    gain = 1 + amount * rng.uniform(-1, 1, 3) * 0.5 + amount * rng.uniform(-1, 1)
    palettes = tuple(
        np.clip(palette * gain, 0, 255).astype(np.float32) for palette in look.palettes
    )
    return replace(look, palettes=palettes)


def _random_palette(rng: np.random.Generator) -> Palette:
    hue, spread = float(rng.random()), float(rng.choice([0.03, 0.08, 0.5]))
    saturation, value = float(rng.beta(1.6, 1.6)), float(rng.uniform(0.25, 0.95))
    count = int(rng.integers(2, 5))
    hsv = np.stack(
        [
            hue + spread * rng.uniform(-1, 1, count),
            saturation + 0.25 * rng.uniform(-1, 1, count),
            value + float(rng.choice([0.1, 0.3, 0.5])) * rng.uniform(-1, 1, count),
        ],
        axis=1,
    )
    return make_palette(hsv_to_rgb(hsv))


def make_sprite(rng: np.random.Generator, shape: Shape, look: Look, radius: float) -> Sprite:
    """Make a sprite with enough resolution for a radius of up to `radius` pixels."""
    side = int(min(max(2 * _EXTENT * radius, 20), 320))
    ramp = ((np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1) * np.float32(_EXTENT)
    x, y = np.broadcast_arrays(ramp[None], ramp[:, None])
    distance = shape.distance(x, y)
    pixels = np.empty((side, side, 4), np.float32)
    pixels[..., :3] = textured(rng, look, side, side)
    pixels[..., 3] = distance
    if look.relief:
        # Shading: darker towards the rim and away from the light.
        depth = np.clip(distance * np.float32(2.5), 0, 1)
        shade = 1 - np.float32(0.55 * look.relief) * (1 - depth) ** 2
        shade -= np.float32(0.25 * look.relief) * (x + y) * np.float32(0.7)
        pixels[..., :3] = np.minimum(pixels[..., :3] * shade[..., None], 255)
    return Sprite(pixels.reshape(-1, 4), side)


@lru_cache(maxsize=1)
def _strangers() -> tuple[Sprite, ...]:
    rng = np.random.Generator(np.random.PCG64(_BANK_SEED))
    return tuple(
        make_sprite(rng, random_shape(rng, complexity=0.8), random_look(rng, 0.4), 48)
        for _ in range(_STRANGERS)
    )


def stranger(rng: np.random.Generator) -> Sprite:
    """Random sprite from a precomputed bank, with a random tint."""
    bank = _strangers()
    sprite = bank[int(rng.integers(len(bank)))]
    gain = np.ones(4, np.float32)
    gain[:3] = rng.uniform(0.45, 1.0) * rng.uniform(0.7, 1.0, 3)
    # Also lighten dark colours.
    lift = np.zeros(4, np.float32)
    lift[:3] = (1 - gain[:3]) * rng.uniform(0, 255, 3)
    return Sprite(sprite.pixels * gain + lift, sprite.side)


def textured(rng: np.random.Generator, look: Look, height: int, width: int) -> Frame:
    """Render a surface with a look, RGB uint8 `[height, width, 3]`."""
    bank = texture_bank()
    layers = []
    for kind, palette in zip(look.kinds, look.palettes, strict=True):
        tile = bank[kind][int(rng.integers(len(bank[kind])))]
        image = Image.fromarray(crop(tile, rng, look.extent, height, width))
        image.putpalette((palette + np.float32(0.5)).astype(np.uint8).tobytes())
        layers.append(np.array(image.convert("RGB")))
    if len(layers) == 1:
        return layers[0]
    tile = bank["soft"][int(rng.integers(len(bank["soft"])))]
    first = crop(tile, rng, 0.35, height, width) > 128
    layers[1][first] = layers[0][first]
    return layers[1]


def paint(
    frame: Frame,
    labels: Frame,
    sprite: Sprite,
    motion: Motion,
    t: int,
    label: int,
    blur: float = 0.0,
) -> None:
    """Paint a sprite onto a frame `[H, W, 3]` and its label onto `labels` `[H, W]`, in place.

    A pixel gets the label if at least half of it is covered. `blur` is the motion blur, as a
    fraction of the motion between two frames.
    """
    height, width = labels.shape
    cx, cy, radius = float(motion.x[t]), float(motion.y[t]), float(motion.radius[t])
    stretch = float(motion.stretch[t])
    steps = _smear(motion, t, blur)
    pad_x = 1 + max(abs(dx) for dx, _ in steps)
    pad_y = 1 + max(abs(dy) for _, dy in steps)
    half = radius * max(stretch, 1 / stretch) * (1 + 2 * motion.wave)
    x0, x1 = max(int(cx - half) - pad_x, 0), min(int(cx + half) + 2 + pad_x, width)
    y0, y1 = max(int(cy - half) - pad_y, 0), min(int(cy + half) + 2 + pad_y, height)
    if x0 >= x1 or y0 >= y1:
        return
    if len(steps) == 1:
        alpha, color = _sample(sprite, motion, t, (x0, y0, x1, y1))
    else:
        # Sampled once with a margin, then averaged along the path.
        px, py = pad_x - 1, pad_y - 1
        wide, ink = _sample(sprite, motion, t, (x0 - px, y0 - py, x1 + px, y1 + py))
        ink *= wide[..., None]
        alpha = np.zeros((y1 - y0, x1 - x0), np.float32)
        color = np.zeros((y1 - y0, x1 - x0, 3), np.float32)
        for dx, dy in steps:
            window = slice(py - dy, py - dy + y1 - y0), slice(px - dx, px - dx + x1 - x0)
            alpha += wide[window]
            color += ink[window]
        color /= np.maximum(alpha, 1e-6)[..., None]
        alpha /= len(steps)
    window = slice(y0, y1), slice(x0, x1)
    patch = frame[window]
    mixed = patch + (color - patch) * alpha[..., None]
    frame[window] = (mixed + np.float32(0.5)).astype(np.uint8)
    labels[window][alpha >= 0.5] = label


def _smear(motion: Motion, t: int, blur: float) -> list[tuple[int, int]]:
    """Pixel offsets `(dx, dy)` to average for motion blur; a single one without blur."""
    if blur <= 0 or len(motion.x) < 2:
        return [(0, 0)]
    last = len(motion.x) - 1
    a, b = max(t - 1, 0), min(t + 1, last)
    dx = float(motion.x[b] - motion.x[a]) / (b - a) * blur
    dy = float(motion.y[b] - motion.y[a]) / (b - a) * blur
    length = max(abs(dx), abs(dy))
    # With a longer blur no pixel would be half covered.
    limit = 0.6 * float(motion.radius[t])
    if length > limit:
        dx, dy, length = dx * limit / length, dy * limit / length, limit
    count = min(int(length) + 1, 7)
    if count == 1:
        return [(0, 0)]
    return [(round(dx * s), round(dy * s)) for s in np.linspace(-0.5, 0.5, count).tolist()]


def _sample(
    sprite: Sprite, motion: Motion, t: int, box: tuple[int, int, int, int]
) -> tuple[Pixels, Pixels]:
    """Sample coverage `[h, w]` in 0..1 and colour `[h, w, 3]` of the pixels of a box."""
    x0, y0, x1, y1 = box
    radius, stretch = float(motion.radius[t]), float(motion.stretch[t])
    cos, sin = float(np.cos(motion.angle[t])), float(np.sin(motion.angle[t]))
    dx = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - motion.x[t])
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - motion.y[t])
    across, down = radius * stretch, radius / stretch
    u = dx * np.float32(cos / across) + dy * np.float32(sin / across)
    v = dy * np.float32(cos / down) - dx * np.float32(sin / down)
    if motion.wave:
        phase = motion.phase + motion.sway * t
        turns, amplitude = np.float32(256 * motion.cycles), np.float32(motion.wave)
        start = np.float32(256 * (phase + 16))
        bent = u + amplitude * _SINE[(v * turns + start).astype(np.int32) & 255]
        v += amplitude * _SINE[(u * turns + start).astype(np.int32) & 255]
        u = bent
    side = sprite.side
    scale, middle = np.float32(side / (2 * _EXTENT)), np.float32((side - 1) / 2)
    limit = np.float32(side - 1.001)
    u = np.clip(u * scale + middle, 0, limit)
    v = np.clip(v * scale + middle, 0, limit)
    column, row = u.astype(np.int32), v.astype(np.int32)
    u -= column
    v -= row
    index = row * side + column
    u, v = u[..., None], v[..., None]
    pixels = sprite.pixels
    top = pixels.take(index, axis=0)
    top += (pixels.take(index + 1, axis=0) - top) * u
    index += side
    bottom = pixels.take(index, axis=0)
    bottom += (pixels.take(index + 1, axis=0) - bottom) * u
    top += (bottom - top) * v
    alpha = np.clip(top[..., 3] * np.float32(radius) + np.float32(0.5), 0, 1)
    return alpha, top[..., :3]
