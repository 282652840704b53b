"""Exceptions of fastsam2.

Each class also derives from the built-in exception that `sam2` raises in the same place, so that
programs which catch that one keep working.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "FastSAM2Error",
    "InputError",
    "StateError",
    "VideoError",
    "first_line",
]


class FastSAM2Error(Exception):
    """Base class of all errors of this package; the message is one line for the user."""


class InputError(FastSAM2Error, ValueError):
    """Unusable prompt, image or argument; the message holds the values."""


class ConfigError(FastSAM2Error, ValueError):
    """Unknown model, configuration field or value; the message names the nearest known one."""


class CheckpointError(FastSAM2Error, RuntimeError):
    """Weights that cannot be found or read, or do not fit the model."""


class DeviceError(FastSAM2Error, RuntimeError):
    """The requested device is not available."""


class StateError(FastSAM2Error, RuntimeError):
    """Call that the session's state does not allow, such as naming an unknown object."""


class VideoError(FastSAM2Error, RuntimeError):
    """Unreadable video.

    Attributes:
        frame_idx: first frame that could not be read; None if the whole video cannot be read.
    """

    def __init__(self, message: str, frame_idx: int | None = None) -> None:
        super().__init__(message)
        self.frame_idx = frame_idx


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
