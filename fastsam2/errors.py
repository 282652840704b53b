"""Exceptions of fastsam2.

Each class also derives from the built-in exception that `sam2` raises in the same place, so that
programs which catch that one keep working.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "FastSAM2Error",
    "InputError",
    "StateError",
    "VideoError",
    "first_line",
    "whole_number",
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


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Return `value` as an int.

    Raises:
        InputError: it is not a whole number, or less than `least`; the message holds `name`.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if isinstance(value, (str, bytes)) or number != value or number < least:
        raise InputError(f"{name} must be a whole number from {least} on, not {value!r}")
    return number


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
