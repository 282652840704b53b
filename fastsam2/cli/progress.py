"""Progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["frame_progress"]


def frame_progress(title: str, *, leave: bool = True) -> Callable[..., Iterable[int]]:
    """Return a `progress` argument for `propagate`: a bar on a terminal, nothing elsewhere.

    Args:
        title: text in front of the bar.
        leave: keep the finished bar on the screen.
    """

    def progress(frames: Iterable[int], desc: str = "") -> Any:
        return tqdm(frames, desc=title, unit="frame", disable=None, leave=leave)

    return progress
