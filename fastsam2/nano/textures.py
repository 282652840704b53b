"""Procedural textures: a bank of grey tiles, and palettes that colour them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["PLAIN", "RICH", "Palette", "crop", "hsv_to_rgb", "make_palette", "texture_bank"]

Tile = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Palette = npt.NDArray[np.float32]

TILE = 256
_BANK_SEED = 20240729

# Kinds of texture: those for nearly plain surfaces, and all of them.
PLAIN = ("cloud", "grain", "fibre")
RICH = (*PLAIN, "ridge", "coat", "stripe", "weave", "checker", "cell", "pebble", "dot", "brick")
_PER_KIND = 10


@lru_cache(maxsize=1)
def texture_bank() -> dict[str, tuple[Tile, ...]]:
    """Return seamless tiles `[256, 256]` of each kind; always the same, and cached.

    Besides the kinds in `RICH` there is `soft`, with large smooth patches, to divide surfaces.
    """
    rng = np.random.Generator(np.random.PCG64(_BANK_SEED))
    return {kind: tuple(_tile(kind, rng) for _ in range(_PER_KIND)) for kind in _FIELDS}


def crop(tile: Tile, rng: np.random.Generator, extent: float, height: int, width: int) -> Tile:
    """Cut a random part of a tile and resize it to `[height, width]`.

    The longer side is `extent` (0..1) of the tile. The part is mirrored and rotated by multiples of
    90 degrees at random.
    """
    longer = max(height, width)
    across, down = TILE * extent * width / longer, TILE * extent * height / longer
    x = float(rng.uniform(0, TILE - across))
    y = float(rng.uniform(0, TILE - down))
    turned = np.rot90(tile, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    image = Image.fromarray(np.ascontiguousarray(turned))
    box = (x, y, x + across, y + down)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def make_palette(colors: npt.NDArray[np.floating]) -> Palette:
    """Interpolate `colors` `[N, 3]` in 0..1 to a palette, RGB `[256, 3]` in 0..255."""
    position = np.linspace(0, len(colors) - 1, 256)
    channels = [np.interp(position, np.arange(len(colors)), colors[:, c]) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.float32) * 255


def hsv_to_rgb(hsv: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Convert hue (in turns), saturation and value (clipped to 0..1) to RGB `[..., 3]` in 0..1."""
    array = np.asarray(hsv, np.float64)
    hue = array[..., :1] % 1.0
    saturation, value = (np.clip(array[..., c : c + 1], 0, 1) for c in (1, 2))
    wave = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return value * (1 + saturation * (np.clip(wave, 0, 1) - 1))


def _tile(kind: str, rng: np.random.Generator) -> Tile:
    field = _FIELDS[kind](rng)
    field = field - field.mean()
    scaled = field * (58 / max(float(field.std()), 1e-6)) + 128
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)


def _noise(
    rng: np.random.Generator,
    falloff: float,
    *,
    low: float = 0.0,
    high: float = TILE,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Field:
    """Noise with amplitude frequency ** -falloff between `low` and `high` cycles.

    `stretch` elongates it along `angle`. The standard deviation is 1.
    """
    fy = np.fft.fftfreq(TILE, 1 / TILE)[:, None]
    fx = np.fft.rfftfreq(TILE, 1 / TILE)[None]
    along = (np.cos(angle) * fx + np.sin(angle) * fy) * stretch
    across = np.cos(angle) * fy - np.sin(angle) * fx
    frequency = np.sqrt(along**2 + across**2)
    frequency[0, 0] = 1
    gain = frequency**-falloff * (frequency >= low) * (frequency <= high)
    gain[0, 0] = 0
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE))) * gain
    field = np.fft.irfft2(spectrum, (TILE, TILE))
    return (field / max(float(field.std()), 1e-12)).astype(np.float32)


def _grid() -> tuple[Field, Field]:
    """Coordinates (y, x) over the tile, in 0..1: `[256, 1]` and `[1, 256]`."""
    ramp: Field = (np.arange(TILE, dtype=np.float32) + np.float32(0.5)) / np.float32(TILE)
    return ramp[:, None], ramp[None]


def _squash(field: Field, hardness: float) -> Field:
    return np.tanh(field * np.float32(hardness)).astype(np.float32)


def _cloud(rng: np.random.Generator) -> Field:
    return _noise(rng, float(rng.uniform(1.4, 2.2)))


def _grain(rng: np.random.Generator) -> Field:
    return _noise(rng, float(rng.uniform(0.5, 1.0)), low=4, high=60)


def _fibre(rng: np.random.Generator) -> Field:
    angle, stretch = float(rng.uniform(0, np.pi)), float(rng.uniform(4, 12))
    return _noise(rng, 1.2, low=3, high=80, stretch=stretch, angle=angle)


def _ridge(rng: np.random.Generator) -> Field:
    return -np.abs(_noise(rng, float(rng.uniform(1.3, 1.8)), low=2))


def _coat(rng: np.random.Generator) -> Field:
    """Patches and bands, as on leopards and zebras."""
    low = float(rng.uniform(4, 12))
    angle, stretch = float(rng.uniform(0, np.pi)), float(rng.choice([1.0, 1.0, 2.5]))
    field = _noise(rng, 0, low=low, high=low * 1.5, stretch=stretch, angle=angle)
    return _squash(field - np.float32(rng.uniform(-0.6, 0.6)), float(rng.uniform(1.5, 6)))


def _stripe(rng: np.random.Generator) -> Field:
    y, x = _grid()
    kx, ky = rng.integers(-9, 10, 2)
    if kx * kx + ky * ky < 16:
        kx, ky = 3, 5
    warp = float(rng.choice([0.0, 0.5, 1.5])) * _noise(rng, 2.0, high=6)
    wave = np.sin(np.float32(2 * np.pi) * (kx * x + ky * y) + warp)
    return _squash(wave, float(rng.uniform(1, 8)))


def _weave(rng: np.random.Generator) -> Field:
    """Plaid: crossed bands of several widths."""
    y, x = _grid()
    field = np.zeros((TILE, TILE), np.float32)
    for axis in (x, y):
        for _ in range(3):
            cycles, phase = int(rng.integers(2, 12)), float(rng.uniform(0, 6.28))
            wave = np.sin(np.float32(2 * np.pi * cycles) * axis + np.float32(phase))
            field = field + _squash(wave, 6) * np.float32(rng.uniform(0.3, 1))
    return field


def _checker(rng: np.random.Generator) -> Field:
    y, x = _grid()
    down, across = rng.integers(3, 10, 2)
    warp = float(rng.choice([0.0, 0.0, 0.03])) * _noise(rng, 2.0, high=5)
    product = np.sin(2 * np.pi * across * (x + warp)) * np.sin(2 * np.pi * down * (y + warp))
    return _squash(product, float(rng.uniform(4, 20)))


def _distances(rng: np.random.Generator, points: int) -> tuple[Field, Field, npt.NDArray[np.intp]]:
    """Distance to the nearest and second nearest of random points, and index of the nearest."""
    y, x = _grid()
    nearest = np.full((TILE, TILE), 9, np.float32)
    second = nearest.copy()
    owner = np.zeros((TILE, TILE), np.intp)
    for index, (py, px) in enumerate(rng.random((points, 2)).astype(np.float32)):
        dy, dx = np.abs(y - py), np.abs(x - px)
        distance = np.minimum(dy, 1 - dy) ** 2 + np.minimum(dx, 1 - dx) ** 2
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        owner[closer] = index
    return np.sqrt(nearest), np.sqrt(second), owner


def _cell(rng: np.random.Generator) -> Field:
    """Patchwork: one value per cell."""
    points = int(rng.integers(12, 48))
    _, _, owner = _distances(rng, points)
    return rng.random(points).astype(np.float32)[owner]


def _pebble(rng: np.random.Generator) -> Field:
    nearest, second, _ = _distances(rng, int(rng.integers(20, 64)))
    return _squash(second - nearest, float(rng.uniform(15, 40)))


def _dot(rng: np.random.Generator) -> Field:
    nearest, _, _ = _distances(rng, int(rng.integers(16, 56)))
    return _squash(np.float32(rng.uniform(0.03, 0.07)) - nearest, float(rng.uniform(40, 120)))


def _brick(rng: np.random.Generator) -> Field:
    y, x = _grid()
    rows, columns = 2 * int(rng.integers(3, 8)), int(rng.integers(3, 7))
    row = np.floor(y * rows)
    shifted = x * columns + 0.5 * (row % 2)
    column = np.floor(shifted) % columns
    value = rng.random((rows, columns)).astype(np.float32)
    field = value[row.astype(np.intp), column.astype(np.intp)]
    joint = (np.abs(shifted % 1 - 0.5) > 0.46) | (np.abs(y * rows % 1 - 0.5) > 0.42)
    return np.where(joint, np.float32(-0.6), field).astype(np.float32)


def _soft(rng: np.random.Generator) -> Field:
    return _noise(rng, 1.8, high=9)


_FIELDS = {
    "soft": _soft,
    "cloud": _cloud,
    "grain": _grain,
    "fibre": _fibre,
    "ridge": _ridge,
    "coat": _coat,
    "stripe": _stripe,
    "weave": _weave,
    "checker": _checker,
    "cell": _cell,
    "pebble": _pebble,
    "dot": _dot,
    "brick": _brick,
}
