"""Optional import of PyAV; without it, only images and arrays can be read."""

from __future__ import annotations

import re
from typing import Any

from fastsam2.errors import VideoError

__all__ = ["Colorspace", "Disposition", "VideoReformatter", "av", "av_reason"]


class _Missing:
    """Placeholder whose use raises VideoError."""

    def __getattr__(self, name: str) -> Any:
        raise VideoError("video files need PyAV, which is not installed: `pip install av`")

    def __call__(self) -> Any:
        return self.open


av: Any
Colorspace: Any
Disposition: Any
VideoReformatter: Any
try:
    import av  # type: ignore[no-redef]
    from av.stream import Disposition  # type: ignore[no-redef]
    from av.video.reformatter import Colorspace, VideoReformatter  # type: ignore[no-redef]
except ModuleNotFoundError:
    av = Colorspace = Disposition = VideoReformatter = _Missing()


def av_reason(error: Exception) -> str:
    """Return the cause of an error of PyAV, without its number."""
    if isinstance(error, av.error.ExitError):
        return "no data before the timeout"
    return re.sub(r"^\[Errno -?\d+\] ", "", getattr(error, "strerror", None) or str(error))
