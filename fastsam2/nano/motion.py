"""Motion of objects: position, size and rotation on each frame of a clip."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fastsam2.nano.levels import Level

__all__ = ["Motion", "absent_windows", "behind", "envelope", "leaving", "wander"]

Series = npt.NDArray[np.float64]

_FRAMES_PER_ABSENCE = 48


@dataclass(frozen=True)
class Motion:
    """Series over the frames `[T]`: centre and radius in pixels, angle in radians, stretch.

    `wave` is the amplitude of the deformation in radii; its phase advances `sway` turns per frame.
    """

    x: Series
    y: Series
    radius: Series
    angle: Series
    stretch: Series
    wave: float = 0.0
    cycles: float = 0.5
    phase: float = 0.0
    sway: float = 0.0

    @property
    def reach(self) -> float:
        """Upper bound on the distance of any point from the centre, over all frames."""
        return float((self.radius * np.maximum(self.stretch, 1 / self.stretch)).max()) * (
            1 + 2 * self.wave
        )


def wander(
    rng: np.random.Generator,
    level: Level,
    frames: int,
    size: int,
    diameter: float,
    start: tuple[float, float],
) -> Motion:
    """Smooth path from `start` through random points of the frame, at the level's speed."""
    radius = diameter / 2
    low = max(-0.25 * size, -level.outside * radius)
    low = min(low, 0.3 * size)
    nearest = 0.4 * (size - 2 * low)
    speed = float(rng.uniform(*level.speed)) * size
    points, times = [start], [0.0]
    while times[-1] < frames:
        target = rng.uniform(low, size - low, 2)
        distance = float(np.hypot(target[0] - points[-1][0], target[1] - points[-1][1]))
        if distance < nearest:
            continue
        points.append((float(target[0]), float(target[1])))
        times.append(times[-1] + distance / speed)
    t = np.arange(frames, dtype=np.float64)
    x, y = _through(np.array(points), np.array(times), t)
    period = float(rng.uniform(0.6, 1.6)) * max(24, min(frames, 60))
    beat = np.sin(2 * np.pi * t / period + rng.uniform(0, 2 * np.pi))
    growth = float(rng.uniform(0, level.swing))
    turn = float(rng.uniform(-level.turn, level.turn))
    rock = float(rng.uniform(0, 4)) * level.turn * np.sin(2 * np.pi * t / (0.7 * period))
    stretch = (1 + float(rng.uniform(0, level.stretch))) ** np.sin(
        2 * np.pi * t / (0.8 * period) + rng.uniform(0, 2 * np.pi)
    )
    return Motion(
        x=x,
        y=y,
        # Never above `radius`, so that sizes stay within the level's range.
        radius=radius * (1 + growth) ** (0.5 * (beat - beat.max())),
        angle=float(rng.uniform(0, 2 * np.pi)) + turn * t + rock,
        stretch=stretch,
        wave=float(rng.uniform(0, level.wave)),
        cycles=float(rng.uniform(0.25, 0.8)),
        phase=float(rng.random()),
        sway=float(rng.uniform(-1, 1)) * level.turn,
    )


def _through(points: Series, times: Series, t: Series) -> tuple[Series, Series]:
    """Interpolate `points` `[N, 2]` at `times` `[N]` with a cubic Hermite spline at `t`."""
    velocity = np.empty_like(points)
    velocity[1:-1] = (points[2:] - points[:-2]) / (times[2:] - times[:-2])[:, None]
    velocity[0] = (points[1] - points[0]) / (times[1] - times[0])
    velocity[-1] = (points[-1] - points[-2]) / (times[-1] - times[-2])
    index = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    span = (times[index + 1] - times[index])[:, None]
    s = ((t - times[index]) / span[:, 0])[:, None]
    path = (
        (1 + 2 * s) * (1 - s) ** 2 * points[index]
        + s * (1 - s) ** 2 * span * velocity[index]
        + s * s * (3 - 2 * s) * points[index + 1]
        + s * s * (s - 1) * span * velocity[index + 1]
    )
    return path[:, 0], path[:, 1]


def absent_windows(rng: np.random.Generator, frames: int) -> list[tuple[int, int]]:
    """Choose intervals `[first, last)` of frames without the object; never with frame 0.

    The last frame is in none of them either, unless there are only two frames.
    """
    if frames < 2:
        return []
    if frames == 2:
        return [(1, 2)]
    blocks = max(1, frames // _FRAMES_PER_ABSENCE)
    edges = np.linspace(1, frames - 1, blocks + 1).astype(int)
    certain = int(rng.integers(blocks))
    windows = []
    for block, (low, high) in enumerate(itertools.pairwise(edges)):
        if block != certain and rng.random() < 0.5:
            continue
        room = int(high - low)
        length = max(1, min(room, round(room * float(rng.uniform(0.15, 0.4)))))
        first = int(low) + int(rng.integers(room - length + 1))
        windows.append((first, first + length))
    return windows


def envelope(windows: list[tuple[int, int]], frames: int, ramp: int) -> Series:
    """Smooth envelope `[T]`: 1 within the windows, 0 away from them and on frame 0."""
    t = np.arange(frames, dtype=np.float64)
    result = np.zeros(frames)
    for first, last in windows:
        before = min(ramp, first)
        after = min(ramp, max(frames - last, 1))
        rise = np.clip((t - (first - before)) / before, 0, 1)
        fall = np.clip(((last - 1 + after) - t) / after, 0, 1)
        s = np.minimum(rise, fall)
        result = np.maximum(result, s * s * (3 - 2 * s))
    return result


def leaving(
    rng: np.random.Generator, motion: Motion, windows: list[tuple[int, int]], size: int, ramp: int
) -> Motion:
    """Move `motion` outside the frame during `windows`; it may return through another side."""
    frames = len(motion.x)
    away = envelope(windows, frames, ramp)
    far = motion.reach + 2
    middles = [(first + last) // 2 for first, last in windows]
    # The side changes halfway through each window, while the object is out of sight.
    stage = np.zeros(frames, np.intp)
    for middle in middles:
        stage[middle:] += 1
    first = windows[0][0] - 1 if windows else 0
    gaps = np.array(
        [motion.x[first], size - motion.x[first], motion.y[first], size - motion.y[first]]
    )
    sides = np.concatenate([[int(gaps.argmin())], rng.integers(0, 4, len(windows))])[stage]
    exit_x = np.where(sides == 0, -far, np.where(sides == 1, size + far, motion.x))
    exit_y = np.where(sides == 2, -far, np.where(sides == 3, size + far, motion.y))
    return replace(
        motion,
        x=motion.x + away * (exit_x - motion.x),
        y=motion.y + away * (exit_y - motion.y),
    )


def behind(
    rng: np.random.Generator,
    hidden: Motion,
    windows: list[tuple[int, int]],
    size: int,
    ramp: int,
    inner: float,
) -> Motion:
    """Motion of an occluder that covers `hidden` during `windows`, and is out of sight otherwise.

    `inner` is the radius of the largest centred circle inside the occluder, in occluder radii.
    """
    frames = len(hidden.x)
    away = 1 - envelope(windows, frames, ramp)
    radius = (hidden.reach + 2) / inner
    direction = float(rng.uniform(0, 2 * np.pi))
    far = 2 * size + 1.5 * radius
    ones = np.ones(frames)
    return Motion(
        x=hidden.x + away * far * np.cos(direction),
        y=hidden.y + away * far * np.sin(direction),
        radius=radius * ones,
        angle=float(rng.uniform(0, 6.28)) + 0.01 * np.arange(frames, dtype=np.float64),
        stretch=ones,
    )
