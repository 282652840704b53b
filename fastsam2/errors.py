"""What fastsam2 raises when an input makes no sense.

Every class also derives from the built-in exception that `sam2` raises in the same place, so that
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
]


class FastSAM2Error(Exception):
    """Base of all errors raised on purpose; its message is one line meant for the user."""


class InputError(FastSAM2Error, ValueError):
    """A prompt, image or argument that cannot be used; the message holds the values."""


class ConfigError(FastSAM2Error, ValueError):
    """An unknown model, configuration field or value; the message names the nearest known one."""


class CheckpointError(FastSAM2Error, RuntimeError):
    """Weights that cannot be found, read, or fitted to the model."""


class DeviceError(FastSAM2Error, RuntimeError):
    """A device that was asked for is not there."""


class StateError(FastSAM2Error, RuntimeError):
    """A call that the session's state does not allow, such as naming an unknown object."""


class VideoError(FastSAM2Error, RuntimeError):
    """A video that cannot be read; `frame_idx` is the first frame that failed, where one did."""

    def __init__(self, message: str, frame_idx: int | None = None) -> None:
        super().__init__(message)
        self.frame_idx = frame_idx
