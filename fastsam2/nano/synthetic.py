"""Synthetic videos with exact masks, to train a small model on, to test with and to measure on.

    python -m fastsam2.nano.synthetic out --clips 8 --frames 48 --seed 1

writes clips in the layout of DAVIS. `make_clip` makes one in memory.
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
from fastsam2.nano.levels import LEVELS, level_settings
from fastsam2.nano.scene import Scene, make_camera

__all__ = ["Clip", "make_clip", "make_scene", "write_davis"]

Frame = npt.NDArray[np.uint8]

_MAX_OBJECTS = 16
_MIN_SIZE = 64
_LAYOUTS = 12
# What belongs together draws from a stream of its own, so that changing one leaves the others.
_STREAMS = ("layout", "looks", "background", "camera")


@dataclass(frozen=True)
class Clip:
    """A video: `frames` RGB uint8 `[T, H, W, 3]`, and `labels` uint8 `[T, H, W]`.

    A label is 0 on the background, and i where object i is what is seen, at least over half of the
    pixel. Every object is visible on frame 0.
    """

    frames: Frame
    labels: Frame

    @property
    def objects(self) -> int:
        """Number of objects, which are 1..objects, including those absent on some frames."""
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
    """A clip of `frames` frames, the same for the same arguments.

    Args:
        seed: 0 or more.
        frames: number of frames, at least 1.
        level: 1 is clean, 2 mixed, 3 hard.
        size: height and width in pixels, at least 64.
        objects: number of objects, at most 16; drawn if None.
        absences: chance for an object to leave or hide for a stretch and come back; by the level
            if None. With two frames it cannot come back.

    Raises:
        InputError: an argument out of its range.
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
    """What `make_clip` draws. The arguments are the same."""
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
    """The scene, and its frame 0, drawn to see whether every object is visible there."""
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
        # The last attempt keeps the objects apart and leaves out whatever could cover them.
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
    """Writes clips in the layout of DAVIS 2017; clip k has seed `seed + k`.

    That is `JPEGImages/480p/<name>/00000.jpg`, `Annotations/480p/<name>/00000.png` with the DAVIS
    palette, and the names in `ImageSets/2017/val.txt`.

    Raises:
        InputError: as `make_clip`, or fewer than 1 clip.
        OSError: a file cannot be written.
    """
    # Here, as it brings torch: processes that only make clips start without it.
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
    # Last, so that a list names only clips that are there in full.
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _Parser(
        prog="python -m fastsam2.nano.synthetic",
        description="Write synthetic videos with exact masks in the layout of DAVIS 2017: "
        "JPEGImages/480p, Annotations/480p and ImageSets/2017/val.txt.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write to; it is made")
    parser.add_argument("--clips", metavar="N", type=int, required=True, help="number of videos")
    parser.add_argument("--frames", metavar="T", type=int, required=True, help="frames in each")
    parser.add_argument(
        "--seed",
        metavar="S",
        type=int,
        required=True,
        help="seed of the first; each next has 1 more",
    )
    parser.add_argument(
        "--level",
        metavar="L",
        type=int,
        default=1,
        help=f"{min(LEVELS)} is clean, 2 mixed, {max(LEVELS)} hard (default: 1)",
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
