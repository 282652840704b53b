"""Settings of the difficulty levels. Lengths are fractions of the frame's side."""

from __future__ import annotations

from dataclasses import dataclass

from fastsam2.errors import InputError

__all__ = ["LEVELS", "Level", "level_settings"]

Range = tuple[float, float]


@dataclass(frozen=True)
class Level:
    """Distribution of the videos of a level. Probabilities are per clip unless noted.

    `swing`, `turn` and `wave` are the largest change of scale (a factor of 1 + swing), rotation in
    radians per frame, and deformation in radii.
    """

    objects: tuple[int, int]
    diameter: Range
    min_area: float  # of each object on frame 0, as a fraction of the frame
    speed: Range  # per frame
    outside: float  # distance in radii a centre may leave the frame by; negative: stays inside
    swing: float
    turn: float
    stretch: float
    wave: float
    absences: float  # probability per object
    leave_frames: int  # number of frames from the edge of the frame to out of sight
    complexity: float  # of outlines
    vivid: bool
    two_tone: float  # probability per object
    look_alike: float  # probability per object
    camouflage: float  # probability per object
    distractors: tuple[int, int]
    occluders: tuple[int, int]
    clutter: tuple[int, int]
    regions: tuple[int, int]  # of the background
    contrast: Range  # of the background
    pan: Range  # per frame
    shake: float
    zoom: float
    roll: float  # radians
    motion_blur: float  # fraction of the motion between two frames
    blur: float  # probability
    noise: Range  # standard deviation, in grey levels
    light: float


_CLEAN = Level(
    objects=(2, 3),
    diameter=(0.24, 0.42),
    min_area=0.01,
    speed=(0.008, 0.02),
    outside=-0.85,
    swing=0.12,
    turn=0.025,
    stretch=0.0,
    wave=0.0,
    absences=0.1,
    leave_frames=12,
    complexity=0.0,
    vivid=True,
    two_tone=0.0,
    look_alike=0.0,
    camouflage=0.0,
    distractors=(0, 0),
    occluders=(0, 0),
    clutter=(0, 0),
    regions=(1, 2),
    contrast=(0.12, 0.3),
    pan=(0.0, 0.002),
    shake=0.0,
    zoom=0.0,
    roll=0.0,
    motion_blur=0.0,
    blur=0.0,
    noise=(0.0, 0.0),
    light=0.0,
)

_MIXED = Level(
    objects=(2, 4),
    diameter=(0.2, 0.55),
    min_area=0.003,
    speed=(0.006, 0.035),
    outside=0.0,
    swing=0.35,
    turn=0.06,
    stretch=0.15,
    wave=0.07,
    absences=0.25,
    leave_frames=7,
    complexity=0.6,
    vivid=False,
    two_tone=0.4,
    look_alike=0.3,
    camouflage=0.05,
    distractors=(0, 2),
    occluders=(0, 1),
    clutter=(0, 5),
    regions=(1, 4),
    contrast=(0.25, 0.6),
    pan=(0.0, 0.01),
    shake=0.002,
    zoom=0.05,
    roll=0.03,
    motion_blur=0.25,
    blur=0.3,
    noise=(0.0, 5.0),
    light=0.12,
)

_HARD = Level(
    objects=(2, 5),
    diameter=(0.12, 0.55),
    min_area=0.003,
    speed=(0.01, 0.07),
    outside=0.4,
    swing=0.7,
    turn=0.13,
    stretch=0.3,
    wave=0.13,
    absences=0.35,
    leave_frames=4,
    complexity=1.0,
    vivid=False,
    two_tone=0.5,
    look_alike=0.5,
    camouflage=0.35,
    distractors=(1, 4),
    occluders=(0, 2),
    clutter=(4, 12),
    regions=(2, 6),
    contrast=(0.4, 0.9),
    pan=(0.0, 0.025),
    shake=0.006,
    zoom=0.1,
    roll=0.08,
    motion_blur=0.5,
    blur=0.5,
    noise=(2.0, 12.0),
    light=0.22,
)

LEVELS = {1: _CLEAN, 2: _MIXED, 3: _HARD}


def level_settings(level: int) -> Level:
    """Return the settings of level 1, 2 or 3.

    Raises:
        InputError: unknown level.
    """
    if level not in LEVELS:
        raise InputError(f"unknown level {level}: choose 1 (clean), 2 (mixed) or 3 (hard)")
    return LEVELS[level]
