"""Synthetic videos with exact masks, for training, tests and benchmarks.

    python -m fastsam2.nano.synthetic out --clips 8 --frames 48 --seed 1

writes clips in the layout of DAVIS 2017. `make_clip` makes a clip in memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastsam2.errors import InputError
from fastsam2.nano.background import make_background
from fastsam2.nano.cast import camouflaged, cast_layers, cast_looks, cast_shapes
from fastsam2.nano.levels import level_settings
from fastsam2.nano.scene import Scene, make_camera

__all__ = ["Clip", "make_clip", "make_scene", "write_davis"]

Frame = npt.NDArray[np.uint8]

_MAX_OBJECTS = 16
_MIN_SIZE = 64
_LAYOUTS = 12
# Separate random streams, so that changing one part of a clip leaves the others as they are.
_STREAMS = ("layout", "looks", "background", "camera")


@dataclass(frozen=True)
class Clip:
    """Video: `frames` RGB uint8 `[T, H, W, 3]`, and `labels` uint8 `[T, H, W]`.

    A label is 0 for background, and i if object i is visible over at least half of the pixel. Every
    object is visible on frame 0.
    """

    frames: Frame
    labels: Frame

    @property
    def objects(self) -> int:
        """Number of objects, including those absent on some frames; ids are 1..objects."""
        return int(self.labels[0].max())


def make_clip(
    seed: int,
    frames: int,
    *,
    level: int = 1,
    size: int = 256,
    objects: int | None = None,
    absences: float | None = None,
) -> Clip:
    """Make a clip; equal arguments give equal clips.

    Args:
        seed: 0 or more.
        frames: number of frames, at least 1.
        level: difficulty: 1 clean, 2 mixed, 3 hard.
        size: height and width in pixels, at least 64.
        objects: number of objects, 1 to 16; random if None.
        absences: probability that an object leaves or is hidden for a while and returns; the
            level's default if None. In a clip of two frames it cannot return.

    Raises:
        InputError: an argument is out of range.
    """
    scene, first = _stage(seed, frames, level, size, objects, absences)
    drawn = [first, *(scene.draw(t) for t in range(1, frames))]
    return Clip(np.stack([frame for frame, _ in drawn]), np.stack([mask for _, mask in drawn]))


def make_scene(
    seed: int,
    frames: int,
    *,
    level: int = 1,
    size: int = 256,
    objects: int | None = None,
    absences: float | None = None,
) -> Scene:
    """Make the scene that `make_clip` draws; same arguments."""
    scene, _ = _stage(seed, frames, level, size, objects, absences)
    return scene


def _stage(
    seed: int,
    frames: int,
    level: int,
    size: int,
    objects: int | None,
    absences: float | None,
) -> tuple[Scene, tuple[Frame, Frame]]:
    """Make a scene in which every object is visible on frame 0; also return that frame."""
    settings = level_settings(level)
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, not {seed}")
    if frames < 1:
        raise InputError(f"a clip needs at least 1 frame, not {frames}")
    if size < _MIN_SIZE:
        raise InputError(f"the size must be at least {_MIN_SIZE} pixels, not {size}")
    if objects is not None and not 1 <= objects <= _MAX_OBJECTS:
        raise InputError(f"the number of objects must be in 1..{_MAX_OBJECTS}, not {objects}")
    if absences is not None and not 0 <= absences <= 1:
        raise InputError(f"the chance of absences must be in 0..1, not {absences}")
    if absences is not None:
        settings = replace(settings, absences=float(absences))
    streams = {
        name: np.random.Generator(np.random.PCG64([seed, index]))
        for index, name in enumerate(_STREAMS)
    }
    low, high = settings.objects
    count = int(streams["layout"].integers(low, high + 1)) if objects is None else objects
    looks = cast_looks(streams["looks"], settings, count)
    background = make_background(streams["background"], settings, frames, size, looks)
    if settings.camouflage:
        looks = camouflaged(streams["looks"], settings, looks, background.canvas)
    camera = make_camera(streams["camera"], settings, frames)
    shapes = cast_shapes(streams["looks"], settings, count)
    needed = settings.min_area * size * size
    for attempt in range(_LAYOUTS + 1):
        # The last attempt keeps the objects apart, without anything that could cover them.
        apart = attempt == _LAYOUTS
        layers = cast_layers(streams["layout"], settings, frames, size, looks, shapes, apart)
        scene = Scene(size, background, layers, camera)
        first = scene.draw(0)
        areas = np.bincount(first[1].ravel(), minlength=count + 1)[1:]
        if areas.min() >= needed:
            break
    return scene, first


def write_davis(
    folder: str | Path, clips: int, frames: int, seed: int, level: int = 1, size: int = 256
) -> None:
    """Write clips in the layout of DAVIS 2017; clip k has seed `seed + k`.

    Files are `JPEGImages/480p/<name>/00000.jpg`, `Annotations/480p/<name>/00000.png` with the DAVIS
    palette, and the names in `ImageSets/2017/val.txt`.

    Raises:
        InputError: as `make_clip`, or fewer than 1 clip.
        OSError: a file cannot be written.
    """
    # Imported here because it imports torch, which processes that only make clips do not need.
    from fastsam2.data.writers import write_labels

    if clips < 1:
        raise InputError(f"the number of clips must be at least 1, not {clips}")
    root = Path(folder)
    names = []
    for number in range(clips):
        clip = make_clip(seed + number, frames, level=level, size=size)
        names.append(f"synthetic-{level}-{seed + number:06d}")
        images = root / "JPEGImages" / "480p" / names[-1]
        annotations = root / "Annotations" / "480p" / names[-1]
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        for t in range(frames):
            Image.fromarray(clip.frames[t]).save(images / f"{t:05d}.jpg", quality=95)
            write_labels(annotations / f"{t:05d}.png", clip.labels[t])
    # Written last, so that the list names complete clips only.
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _Parser(
        prog="python -m fastsam2.nano.synthetic",
        description="Write synthetic videos with exact masks in the layout of DAVIS 2017: "
        "JPEGImages/480p, Annotations/480p and ImageSets/2017/val.txt.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder; created if missing")
    parser.add_argument("--clips", metavar="N", type=int, required=True, help="number of clips")
    parser.add_argument("--frames", metavar="T", type=int, required=True, help="frames per clip")
    parser.add_argument(
        "--seed",
        metavar="S",
        type=int,
        required=True,
        help="seed of the first clip; clip k has seed S + k",
    )
    parser.add_argument(
        "--level",
        metavar="L",
        type=int,
        default=1,
        help="difficulty: 1 clean, 2 mixed, 3 hard (default: 1)",
    )
    parser.add_argument(
        "--size", metavar="PIXELS", type=int, default=256, help="height and width (default: 256)"
    )
    given = parser.parse_args(arguments)
    try:
        write_davis(given.out, given.clips, given.frames, given.seed, given.level, given.size)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
