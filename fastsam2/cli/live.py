"""`fastsam2 track --stream`: track objects through a live source."""

from __future__ import annotations

import itertools
import time

import numpy as np
import typer
from tqdm import tqdm

from fastsam2.cli.prompts import Canvas, ObjectPrompt, collect_prompts
from fastsam2.cli.reporting import report_errors
from fastsam2.cli.request import TrackRequest
from fastsam2.cli.results import TrackResults, count_of
from fastsam2.data.live import LiveSource
from fastsam2.errors import InputError, VideoError
from fastsam2.predictors.results import FrameResult
from fastsam2.sam2_stream_predictor import SAM2StreamPredictor, StreamSession

__all__ = ["track_live"]


def track_live(request: TrackRequest) -> None:
    """Track and write the results until the source ends, `--frames` are done, or Ctrl-C.

    Raises:
        FastSAM2Error: unsuitable options or prompts, or a source that cannot be opened.
        typer.Exit: tracking failed or was interrupted; the error has been printed.
    """
    _check_options(request)
    with LiveSource(request.videos[0], request.policy) as source:
        canvas = Canvas(source.name, request.frames, source.height, source.width)
        prompts = collect_prompts(canvas, request.points, request.boxes, request.masks, 0)
        facts = {
            "path": request.videos[0],
            "frames": None,
            "width": source.width,
            "height": source.height,
            "fps": source.fps,
        }
        results = TrackResults(
            request.output, facts, request.model.title, overwrite=request.overwrite
        )
        tracker = SAM2StreamPredictor(request.model.video_predictor()).start()
        with report_errors(results.left_behind):
            _LiveRun(source, tracker, prompts, results).go(request.frames)
    if request.model.hint:
        typer.echo(request.model.hint)


def _check_options(request: TrackRequest) -> None:
    if len(request.videos) > 1:
        raise InputError(
            f"{len(request.videos)} sources: only one live source can be tracked at a time"
        )
    given = {
        "--start": request.start is not None,
        "--end": request.end is not None,
        "--reverse": request.reverse,
    }
    for option, is_given in given.items():
        if is_given:
            raise InputError(
                f"{option} needs a video of known length, but {request.videos[0]} is read as a "
                "stream: use --frames to end it"
            )


class _LiveRun:
    """Tracks one stream of frames and writes each frame's results."""

    def __init__(
        self,
        source: LiveSource,
        tracker: StreamSession,
        prompts: list[ObjectPrompt],
        results: TrackResults,
    ) -> None:
        self.source = source
        self.tracker = tracker
        self.results = results
        self._prompts = {
            frame_idx: list(group)
            for frame_idx, group in itertools.groupby(prompts, lambda prompt: prompt.frame)
        }

    def go(self, limit: int | None) -> None:
        """Track up to `limit` frames and print a summary, also after an error.

        Raises:
            VideoError: the source ended before the frame of a prompt.
        """
        clock = time.perf_counter()
        try:
            with self.results:
                self._track(limit)
        finally:
            self._show(time.perf_counter() - clock)
        if self._prompts:
            frame_idx, (prompt, *_) = min(self._prompts.items())
            raise VideoError(
                f"{self.source.name} ended before frame {frame_idx}, on which object "
                f"{prompt.obj_id} has a prompt"
            )

    def _track(self, limit: int | None) -> None:
        begin = min(self._prompts)
        frames = itertools.islice(self.source, limit)
        progress = tqdm(frames, desc="tracking", unit="frame", total=limit, disable=None)
        for frame_idx, (shown, image) in enumerate(progress):
            # Before the first prompt there is nothing to track.
            if frame_idx < begin:
                continue
            result = self.tracker.step(image)
            for prompt in self._prompts.pop(frame_idx, []):
                result = self._prompt(prompt)
            self.results.write(frame_idx, result.to_host(), image, shown)

    def _prompt(self, prompt: ObjectPrompt) -> FrameResult:
        """Add or correct an object; return the new result of the frame."""
        known = prompt.obj_id in self.tracker.obj_ids
        give = self.tracker.correct if known else self.tracker.add_object
        return give(
            prompt.obj_id,
            points=np.array(prompt.points, np.float32) if prompt.points else None,
            labels=np.array(prompt.labels, np.int32) if prompt.labels else None,
            box=prompt.box,
            mask=prompt.mask,
        )

    def _show(self, seconds: float) -> None:
        rate = len(self.results.written) / seconds
        facts = [count_of(len(self.tracker.obj_ids), "object"), f"{rate:.1f} frames/s"]
        facts.append(f"{self.source.dropped} dropped")
        if self.source.damaged:
            facts.append(f"{self.source.damaged} damaged")
        self.results.show(*facts)
