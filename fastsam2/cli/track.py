"""`fastsam2 track`: objects through a video, into an overlay video, label images and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from fastsam2.cli.models import ModelChoice
from fastsam2.cli.output import prepare_folder
from fastsam2.cli.prompts import Canvas, ObjectPrompt, collect_prompts
from fastsam2.cli.reporting import report_errors, undivided
from fastsam2.data.overlay import draw_overlay
from fastsam2.data.sources import FrameSource, open_frames
from fastsam2.data.writers import MaskPngWriter, OverlayVideoWriter, TrackJsonWriter, read_labels
from fastsam2.errors import InputError
from fastsam2.predictors.video import propagate

__all__ = ["TrackRequest", "track"]

_FALLBACK_FPS = 25.0  # of image folders and of containers that do not know


@dataclass(frozen=True)
class TrackRequest:
    """What the user asked for; see the command's options."""

    video: Path
    output: Path
    model: ModelChoice
    points: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    start: int | None = None
    end: int | None = None
    reverse: bool = False
    overwrite: bool = False


def track(request: TrackRequest) -> None:
    """Tracks and writes the results; reports errors and exits."""
    with report_errors(), open_frames(request.video) as source:
        canvas = Canvas(request.video.name, len(source), source.height, source.width)
        first, last = _range(request, canvas)
        default_frame = last if request.reverse else first
        prompts = collect_prompts(
            canvas, request.points, request.boxes, request.masks, default_frame
        )
        _check_range(prompts, first, last)
        prepare_folder(
            request.output, ["overlay.mp4", "tracks.json", "masks"], overwrite=request.overwrite
        )
        predictor = request.model.video_predictor()
        state = predictor.init_state(source)
        for prompt in prompts:
            _add(predictor, state, prompt)
        prompted = [prompt.frame for prompt in prompts]
        begin, stop = (max(prompted), first) if request.reverse else (min(prompted), last)
        _Run(request, source, predictor, state).go(begin, stop)


def _range(request: TrackRequest, canvas: Canvas) -> tuple[int, int]:
    first = 0 if request.start is None else request.start
    last = canvas.num_frames - 1 if request.end is None else request.end
    for option, frame in (("--start", first), ("--end", last)):
        if not 0 <= frame < canvas.num_frames:
            raise InputError(
                f"{option} {frame}: {canvas.name} has frames 0 to {canvas.num_frames - 1}"
            )
    if first > last:
        raise InputError(f"--start {first} lies after --end {last}")
    return first, last


def _check_range(prompts: list[ObjectPrompt], first: int, last: int) -> None:
    for prompt in prompts:
        if not first <= prompt.frame <= last:
            raise InputError(
                f"object {prompt.obj_id} has a prompt on frame {prompt.frame}, "
                f"outside the frames to track, {first} to {last}"
            )


def _add(predictor: Any, state: Any, prompt: ObjectPrompt) -> None:
    if prompt.mask is not None:
        predictor.add_new_mask(state, prompt.frame, prompt.obj_id, prompt.mask)
        return
    predictor.add_new_points_or_box(
        state,
        prompt.frame,
        prompt.obj_id,
        points=np.array(prompt.points, np.float32) if prompt.points else None,
        labels=np.array(prompt.labels, np.int32) if prompt.labels else None,
        box=prompt.box,
    )


class _Run:
    """One propagation and its results."""

    def __init__(self, request: TrackRequest, source: FrameSource, predictor: Any, state: Any):
        self.request = request
        self.source = source
        self.predictor = predictor
        self.state = state
        self.written: list[int] = []
        self.masks = MaskPngWriter(request.output / "masks")

    def go(self, begin: int, stop: int) -> None:
        """Tracks from frame `begin` to frame `stop` and writes what it has, come what may."""
        clock = time.perf_counter()
        try:
            self._write_all(begin, stop)
        except BaseException:
            with report_errors(self._left_behind()):
                raise
        rate = len(self.written) / (time.perf_counter() - clock)
        self._show(rate)

    def _write_all(self, begin: int, stop: int) -> None:
        output, reverse = self.request.output, self.request.reverse
        try:
            with ExitStack() as stack:
                tracks = stack.enter_context(TrackJsonWriter(output / "tracks.json", self._meta()))
                # A video is written in the order of time: going backward, afterwards.
                overlay = None if reverse else stack.enter_context(self._overlay())
                for frame_idx, logits in self._tracked(begin, stop):
                    frame = None if overlay is None else self.source[frame_idx]
                    with undivided():
                        labels = self.masks.write(frame_idx, logits)
                        scores = self._scores(frame_idx)
                        tracks.write(frame_idx, {k: m > 0 for k, m in logits.items()}, scores)
                        if overlay is not None and frame is not None:
                            overlay.write(draw_overlay(frame, _by_object(labels)))
                        self.written.append(frame_idx)
        finally:
            if reverse and self.written:
                self._write_overlay()

    def _tracked(self, begin: int, stop: int) -> Iterator[tuple[int, dict[int, Any]]]:
        """Each frame with the mask logits `[H, W]` of each object."""

        def progress(frames: range, desc: str = "") -> Any:
            return tqdm(frames, desc="tracking", unit="frame", disable=None)

        # Backward from frame 0 there is nothing to visit, but frame 0 itself has its masks.
        reverse = self.request.reverse and begin > 0
        with torch.inference_mode():
            self.predictor.propagate_in_video_preflight(self.state)
            for result in propagate(
                self.predictor, self.state, begin, abs(stop - begin), reverse, progress
            ):
                logits = result.logits.cpu().numpy()[:, 0]
                yield result.frame_idx, dict(zip(result.obj_ids, logits, strict=True))

    def _scores(self, frame_idx: int) -> dict[int, float]:
        """Probability that each object is visible."""
        scores = {}
        for index, obj_id in enumerate(self.state["obj_ids"]):
            outputs = self.state["output_dict_per_obj"][index]
            for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
                if frame_idx in outputs[kind]:
                    logit = outputs[kind][frame_idx]["object_score_logits"]
                    scores[obj_id] = float(logit.float().sigmoid())
                    break
        return scores

    def _overlay(self) -> OverlayVideoWriter:
        fps = self.source.fps
        size = (self.source.height, self.source.width)
        return OverlayVideoWriter(
            self.request.output / "overlay.mp4", fps if fps and fps < 500 else _FALLBACK_FPS, size
        )

    def _write_overlay(self) -> None:
        """The overlay video from the label images."""
        frames = tqdm(sorted(self.written), desc="drawing", unit="frame", disable=None)
        with self._overlay() as overlay:
            for frame_idx in frames:
                labels = read_labels(self.masks.path(frame_idx))
                overlay.write(draw_overlay(self.source[frame_idx], _by_object(labels)))

    def _meta(self) -> dict[str, Any]:
        source = self.source
        return {
            "video": {
                "path": str(self.request.video),
                "frames": len(source),
                "width": source.width,
                "height": source.height,
                "fps": source.fps,
            },
            "model": self.request.model.title,
        }

    def _left_behind(self) -> str:
        if not self.written:
            return ""
        return f"; the {_count(len(self.written), 'frame')} done by then: see {self.request.output}"

    def _show(self, rate: float) -> None:
        names = [self.masks.path(frame_idx).name for frame_idx in sorted(self.written)]
        output, objects = self.request.output, len(self.state["obj_ids"])
        typer.echo(
            f"{_count(len(names), 'frame')}, {_count(objects, 'object')}, {rate:.1f} frames/s\n"
            f"  overlay  {output / 'overlay.mp4'}\n"
            f"  masks    {self.masks.folder / names[0]} to {names[-1]}\n"
            f"  tracks   {output / 'tracks.json'}"
        )
        if self.request.model.remark:
            typer.echo(self.request.model.remark)


def _by_object(labels: Any) -> dict[int, Any]:
    return {int(obj_id): labels == obj_id for obj_id in np.unique(labels) if obj_id}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
