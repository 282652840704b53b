"""Arguments of `fastsam2 track`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastsam2.cli.models import ModelChoice
from fastsam2.data.live import is_live

__all__ = ["TrackRequest"]


@dataclass(frozen=True)
class TrackRequest:
    """Arguments and options of the command, unparsed; see its --help."""

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
        """True if the source is read as a stream."""
        return self.stream or any(map(is_live, self.videos))
