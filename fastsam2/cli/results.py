"""Result files of tracking: an overlay video, label images and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from tqdm import tqdm

from fastsam2.cli.output import prepare_folder
from fastsam2.cli.reporting import undivided
from fastsam2.data.frame_source import Frame, FrameSource
from fastsam2.data.overlay import draw_overlay
from fastsam2.data.writers import (
    MaskPngWriter,
    OverlayVideoWriter,
    TrackJsonWriter,
    read_labels,
    write_labels,
)
from fastsam2.predictors.results import HostResult

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TrackResults", "count_of"]

_FALLBACK_FPS = 25.0  # of image folders and of containers without a frame rate


class TrackResults:
    """Write overlay.mp4, masks/ and tracks.json of one video, frame by frame.

    Leaving the `with` block completes the files, even after an error.

    Args:
        folder: output folder; created, and cleared of older results if `overwrite` is set.
        video: entry of tracks.json on the video: `path`, `frames`, `width`, `height`, `fps`.
        model: entry of tracks.json on the model.

    Raises:
        OutputError: the folder cannot be created or written to.
        InputError: the folder already holds results and `overwrite` is false.
    """

    def __init__(
        self, folder: Path, video: Mapping[str, Any], model: str, *, overwrite: bool
    ) -> None:
        prepare_folder(folder, ["overlay.mp4", "tracks.json", "masks"], overwrite=overwrite)
        self.folder = folder
        self.written: list[int] = []
        self._video = video
        self._meta = {"video": video, "model": model}
        self._open = ExitStack()
        self._overlay: OverlayVideoWriter | None = None
        self._begin: float | None = None

    def __enter__(self) -> Self:
        self._masks = MaskPngWriter(self.folder / "masks")
        self._tracks = self._open.enter_context(
            TrackJsonWriter(self.folder / "tracks.json", self._meta)
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with undivided():
            self._open.__exit__(kind, error, trace)

    def write(
        self,
        frame_idx: int,
        result: HostResult,
        frame: Frame | None = None,
        time: float | None = None,
    ) -> None:
        """Add a frame to all files; an interruption waits until it is complete.

        Args:
            frame_idx: index of the frame.
            result: results of the frame.
            frame: pixels for the overlay; None if `draw` creates the overlay afterwards.
            time: seconds since the first frame, for sources that may skip frames.
        """
        labels = np.array([0, *result.obj_ids], np.uint8)[result.labels]
        masks = dict(zip(result.obj_ids, result.encode(), strict=True))
        scores = dict(zip(result.obj_ids, result.object_scores.tolist(), strict=True))
        with undivided():
            write_labels(self._masks.path(frame_idx), labels)
            self._tracks.write(frame_idx, masks, scores, time)
            if frame is not None:
                self._draw(frame, labels, time)
            self.written.append(frame_idx)

    def _draw(self, frame: Frame, labels: Any, time: float | None) -> None:
        if self._overlay is None:
            self._overlay = self._open.enter_context(self._overlay_writer())
            self._begin = time
        shown = None if time is None or self._begin is None else time - self._begin
        self._overlay.write(draw_overlay(frame, _by_object(labels)), shown)

    def draw(self, source: FrameSource) -> None:
        """Create the overlay from the label images, for frames written out of order."""
        if not self.written:
            return
        with self._overlay_writer() as overlay:
            for frame_idx in tqdm(sorted(self.written), "drawing", unit="frame", disable=None):
                labels = read_labels(self._masks.path(frame_idx))
                overlay.write(draw_overlay(source[frame_idx], _by_object(labels)))

    def _overlay_writer(self) -> OverlayVideoWriter:
        fps = self._video["fps"]
        size = (self._video["height"], self._video["width"])
        path = self.folder / "overlay.mp4"
        return OverlayVideoWriter(path, fps if fps and fps < 500 else _FALLBACK_FPS, size)

    def left_behind(self) -> str:
        """Suffix for the message of the error that ended the tracking."""
        if not self.written:
            return ""
        return f"; the {count_of(len(self.written), 'frame')} done by then: see {self.folder}"

    def show(self, *facts: str) -> None:
        """Print the number of frames, `facts`, and the paths of the files."""
        typer.echo(", ".join([count_of(len(self.written), "frame"), *facts]))
        if self.written:
            first, last = (self._masks.path(pick(self.written)) for pick in (min, max))
            typer.echo(f"  overlay  {self.folder / 'overlay.mp4'}")
            typer.echo(f"  masks    {first} to {last.name}")
        typer.echo(f"  tracks   {self.folder / 'tracks.json'}")


def _by_object(labels: Any) -> dict[int, Any]:
    return {int(obj_id): labels == obj_id for obj_id in np.unique(labels) if obj_id}


def count_of(number: int, noun: str) -> str:
    """Format a count, such as "1 frame" or "2 frames"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
