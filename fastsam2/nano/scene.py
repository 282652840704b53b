"""Scene: a background with moving layers, drawn frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fastsam2.nano.background import Background
from fastsam2.nano.levels import Level
from fastsam2.nano.motion import Motion
from fastsam2.nano.sprites import Sprite, paint

__all__ = ["Camera", "Layer", "Scene", "make_camera"]

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """Effects on whole frames: motion blur, blur, noise and light (a gain `[T, 3]`)."""

    motion_blur: float
    blur: bool
    noise: float
    gain: npt.NDArray[np.float32]
    noise_seed: int

    def develop(self, frame: Frame, t: int) -> Frame:
        """Apply blur, light and noise to `frame`, `[H, W, 3]`."""
        gain = self.gain[t]
        if not self.blur and self.noise == 0 and (gain == 1).all():
            return frame
        image = frame.astype(np.float32)
        if self.blur:
            # Weights 1 2 1 in both directions: symmetric, so that edges do not move.
            image[:, 1:-1] += 0.25 * (image[:, :-2] + image[:, 2:] - 2 * image[:, 1:-1])
            image[1:-1] += 0.25 * (image[:-2] + image[2:] - 2 * image[1:-1])
        # By rows: broadcasting over three channels is slow.
        rows = image.reshape(len(image), -1)
        rows *= np.tile(gain, image.shape[1])
        if self.noise:
            rng = np.random.Generator(np.random.PCG64([self.noise_seed, t]))
            grains = _noise_bank()
            count = frame.size
            start = int(rng.integers(len(grains) - count)) if count < len(grains) else 0
            grain = np.resize(grains[start : start + count], count).reshape(frame.shape)
            image += grain * np.float32(self.noise)
        return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _noise_bank() -> npt.NDArray[np.float32]:
    rng = np.random.Generator(np.random.PCG64(7))
    return rng.standard_normal(1_000_000, dtype=np.float32)


@dataclass(frozen=True)
class Layer:
    """Sprite in front of the background; label 0 marks distractors and occluders."""

    sprite: Sprite
    motion: Motion
    label: int


@dataclass(frozen=True)
class Scene:
    """Background and layers, from back to front."""

    size: int
    background: Background
    layers: tuple[Layer, ...]
    camera: Camera

    def draw(self, t: int) -> tuple[Frame, Frame]:
        """Draw frame `t`: RGB uint8 `[size, size, 3]` and visible labels `[size, size]`."""
        frame = self.background.view(t, self.size)
        labels = np.zeros((self.size, self.size), np.uint8)
        for layer in self.layers:
            paint(
                frame, labels, layer.sprite, layer.motion, t, layer.label, self.camera.motion_blur
            )
        return self.camera.develop(frame, t), labels


def make_camera(rng: np.random.Generator, level: Level, frames: int) -> Camera:
    """Choose the camera and light effects of a clip."""
    t = np.arange(frames, dtype=np.float64)[:, None]
    depth = float(rng.uniform(0, level.light)) * (1 + rng.uniform(-0.3, 0.3, 3))
    wave = np.sin(2 * np.pi * t / float(rng.uniform(20, 120)) + rng.uniform(0, 6.28))
    smear = float(rng.uniform(0, level.motion_blur)) * 2 if rng.random() < 0.6 else 0.0
    return Camera(
        motion_blur=min(smear, 1.0),
        blur=bool(rng.random() < level.blur),
        noise=float(rng.uniform(*level.noise)),
        gain=(1 + depth * wave).astype(np.float32),
        noise_seed=int(rng.integers(2**32)),
    )
