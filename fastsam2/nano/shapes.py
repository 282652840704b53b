"""Object outlines as signed distances: positive inside, in units of the object's radius."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Shape", "blob", "ellipse", "random_shape"]

Field = npt.NDArray[np.float32]

_ANGLES = 512


@dataclass(frozen=True)
class Lobe:
    """Star-convex region, given by its radius in each direction, `[512]`."""

    radius: npt.NDArray[np.float64]
    x: float = 0.0
    y: float = 0.0

    def distance(self, x: Field, y: Field) -> Field:
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        # Distance perpendicular to the outline, which is shorter than along the ray.
        slope = (np.roll(self.radius, -1) - np.roll(self.radius, 1)) * (_ANGLES / (4 * np.pi))
        tilt = 1 / np.sqrt(1 + (slope / self.radius) ** 2)
        turn = np.arctan2(dy, dx) * np.float32(_ANGLES / (2 * np.pi)) + np.float32(_ANGLES)
        left = turn.astype(np.int32)
        part = turn - left
        table = np.stack([self.radius, tilt], axis=1).astype(np.float32)
        low = table.take(left & (_ANGLES - 1), axis=0)
        high = table.take((left + 1) & (_ANGLES - 1), axis=0)
        value = low + (high - low) * part[..., None]
        return (value[..., 0] - np.hypot(dx, dy)) * value[..., 1]


@dataclass(frozen=True)
class Limb:
    """Rod with round ends, possibly of different radii."""

    start: tuple[float, float]
    end: tuple[float, float]
    radii: tuple[float, float]

    def distance(self, x: Field, y: Field) -> Field:
        (ax, ay), (bx, by) = self.start, self.end
        px, py = x - np.float32(ax), y - np.float32(ay)
        ex, ey = np.float32(bx - ax), np.float32(by - ay)
        along = np.clip((px * ex + py * ey) / max(float(ex * ex + ey * ey), 1e-6), 0, 1)
        thickness = self.radii[0] + along * np.float32(self.radii[1] - self.radii[0])
        return (thickness - np.hypot(px - along * ex, py - along * ey)).astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """Union of parts minus holes. `fitted()` centres it and scales it to radius 1."""

    parts: tuple[Lobe | Limb, ...]
    holes: tuple[Lobe, ...] = ()
    x: float = 0.0
    y: float = 0.0
    radius: float = 1.0

    def distance(self, x: Field, y: Field) -> Field:
        """Signed distance at points `x`, `y` (same shape), exact to first order at the edge."""
        scale = np.float32(self.radius)
        x = x * scale + np.float32(self.x)
        y = y * scale + np.float32(self.y)
        result = self.parts[0].distance(x, y)
        for part in self.parts[1:]:
            result = np.maximum(result, part.distance(x, y))
        for hole in self.holes:
            result = np.minimum(result, -hole.distance(x, y))
        return result / scale

    def fitted(self) -> Shape:
        """Return the shape scaled to the unit circle around the centre of its bounding box."""
        ramp = np.linspace(-2.5, 2.5, 48, dtype=np.float32)
        x, y = np.broadcast_arrays(ramp[None], ramp[:, None])
        inside = self.distance(x, y) >= 0
        xs, ys = x[inside], y[inside]
        cx, cy = float(xs.min() + xs.max()) / 2, float(ys.min() + ys.max()) / 2
        step = 5 / 47
        reach = float(np.hypot(xs - cx, ys - cy).max()) + step / 2
        return replace(
            self,
            x=self.x + cx * self.radius,
            y=self.y + cy * self.radius,
            radius=self.radius * reach,
        )


def _directions() -> npt.NDArray[np.float64]:
    return np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)


def _smooth(radius: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Circular moving average."""
    total = np.cumsum(np.concatenate([radius[-width:], radius]))
    mean = (total[width:] - total[:-width]) / width
    return np.roll(mean, -(width // 2)).astype(np.float64, copy=False)


def blob(rng: np.random.Generator, roughness: float, aspect: float = 1.0) -> Lobe:
    """Smooth irregular outline; `roughness` from 0 (an ellipse) to about 1."""
    theta = _directions()
    radius = np.asarray(ellipse(aspect, float(rng.uniform(0, np.pi))).radius)
    for k in range(2, 8):
        amplitude = roughness * rng.normal() * 0.32 / k**1.1
        radius = radius * (
            1 + np.clip(amplitude, -0.35, 0.35) * np.cos(k * theta + rng.uniform(0, 6.28))
        )
    return Lobe(radius)


def ellipse(aspect: float, angle: float = 0.0) -> Lobe:
    """Ellipse with semi-axes 1 and `aspect`."""
    theta = _directions() - angle
    return Lobe(aspect / np.sqrt((aspect * np.cos(theta)) ** 2 + np.sin(theta) ** 2))


def _polygon(rng: np.random.Generator, corners: int, rounding: int, star: float = 1.0) -> Lobe:
    """Irregular polygon, or, if `star` is below 1, a star with that inner radius."""
    count = corners * (2 if star < 1 else 1)
    angle = (np.arange(count) + rng.uniform(-0.2, 0.2, count)) * (2 * np.pi / count)
    reach = rng.uniform(0.8, 1.0, count)
    if star < 1:
        reach[1::2] *= star
    px, py = np.cos(angle) * reach, np.sin(angle) * reach
    qx, qy = np.roll(px, -1), np.roll(py, -1)
    theta = _directions()[:, None]
    dx, dy = np.cos(theta), np.sin(theta)
    ex, ey = qx - px, qy - py
    # Intersection with each side: t along the ray, s along the side.
    cross = dx * ey - dy * ex
    cross = np.where(np.abs(cross) < 1e-9, 1e-9, cross)
    t = (px * ey - py * ex) / cross
    s = (px * dy - py * dx) / cross
    hit = (t > 0) & (s >= -1e-6) & (s <= 1 + 1e-6)
    radius = np.where(hit, t, np.inf).min(axis=1)
    return Lobe(_smooth(np.where(np.isfinite(radius), radius, 0.8), rounding))


def _rounded_box(aspect: float, rounding: int = 16) -> Lobe:
    """Rectangle with half sides 1 and `aspect` and rounded corners."""
    theta = _directions()
    reach = np.minimum(
        1 / np.maximum(np.abs(np.cos(theta)), 1e-6),
        aspect / np.maximum(np.abs(np.sin(theta)), 1e-6),
    )
    return Lobe(_smooth(reach, rounding))


def _creature(rng: np.random.Generator) -> Shape:
    """Body with limbs and, by chance, a head."""
    aspect = float(rng.uniform(0.45, 0.9))
    body = blob(rng, 0.4, aspect)
    parts: list[Lobe | Limb] = [body]
    for _ in range(int(rng.integers(2, 6))):
        direction = float(rng.uniform(0, 2 * np.pi))
        root = 0.5 * float(body.radius[int(direction / (2 * np.pi) * _ANGLES) % _ANGLES])
        start = (root * np.cos(direction), root * np.sin(direction))
        bend = direction + float(rng.normal() * 0.35)
        length = float(rng.uniform(0.5, 1.05))
        end = (start[0] + length * np.cos(bend), start[1] + length * np.sin(bend))
        thick = float(rng.uniform(0.18, 0.34))
        parts.append(Limb(start, end, (thick, thick * float(rng.uniform(0.5, 1.1)))))
    if rng.random() < 0.6:
        direction = float(rng.uniform(0, 2 * np.pi))
        head = blob(rng, 0.3, float(rng.uniform(0.7, 1.0)))
        parts.append(
            Lobe(
                head.radius * rng.uniform(0.3, 0.5),
                0.95 * np.cos(direction),
                0.95 * np.sin(direction),
            )
        )
    return Shape(tuple(parts))


def random_shape(rng: np.random.Generator, *, complexity: float) -> Shape:
    """Random shape in the unit circle: simple outlines at complexity 0, limbs and holes up to 1."""
    draw = rng.random()
    if draw < 0.55 * complexity:
        shape = _creature(rng)
    elif draw < 0.55 * complexity + 0.2:
        shape = Shape((_polygon(rng, int(rng.integers(3, 8)), int(rng.integers(18, 40))),))
    elif draw < 0.55 * complexity + 0.27:
        inner = float(rng.uniform(0.5, 0.75))
        shape = Shape((_polygon(rng, int(rng.integers(4, 7)), int(rng.integers(12, 30)), inner),))
    elif draw < 0.55 * complexity + 0.34:
        shape = Shape((_rounded_box(float(rng.uniform(0.5, 1.0)), int(rng.integers(10, 50))),))
    else:
        roughness = float(rng.uniform(0.4, 0.7 + 0.5 * complexity))
        shape = Shape((blob(rng, roughness, float(rng.uniform(0.6, 1.0))),))
    if rng.random() < 0.2 * complexity:
        hole = blob(rng, 0.3, 0.8)
        at = rng.uniform(-0.2, 0.2, 2)
        shape = replace(
            shape, holes=(Lobe(hole.radius * rng.uniform(0.15, 0.32), float(at[0]), float(at[1])),)
        )
    return shape.fitted()
