"""What `fastsam2 track` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastsam2.cli.models import ModelChoice
from fastsam2.data.live import is_live

__all__ = ["TrackRequest"]


@dataclass(frozen=True)
class TrackRequest:
    """The command's arguments and options, as they are given; see there."""

    videos: list[str]
    output: Path
    model: ModelChoice
    points: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    start: int | None = None
    end: int | None = None
    reverse: bool = False
    stream: bool = False
    policy: str | None = None
    frames: int | None = None
    overwrite: bool = False

    @property
    def is_live(self) -> bool:
        """Whether frames are taken as they come."""
        return self.stream or any(map(is_live, self.videos))
