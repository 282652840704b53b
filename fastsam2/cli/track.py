"""`fastsam2 track`: track objects through videos; write an overlay, label images and JSON."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from fastsam2.cli.live import track_live
from fastsam2.cli.progress import frame_progress
from fastsam2.cli.prompts import Canvas, ObjectPrompt, check_given, collect_prompts
from fastsam2.cli.reporting import ErrorList
from fastsam2.cli.request import TrackRequest
from fastsam2.cli.results import TrackResults, count_of
from fastsam2.data.open_frames import FrameSource, open_frames
from fastsam2.errors import InputError
from fastsam2.predictors.results import one_behind

__all__ = ["track"]


def track(request: TrackRequest) -> None:
    """Run the command: track and write the results."""
    check_given(request.points, request.boxes, request.masks)
    if request.is_live:
        track_live(request)
        return
    for option, value in (("--policy", request.policy), ("--frames", request.frames)):
        if value is not None:
            raise InputError(
                f"{option} {value} applies to live sources only: use a live source or --stream"
            )
    _track_videos(request)


def _track_videos(request: TrackRequest) -> None:
    """Track the videos one after another; errors of one are reported after the last."""
    errors, predictor = ErrorList(), None
    folders = _folders(request)
    for video, folder in folders.items():
        title = str(video) if len(folders) > 1 else ""
        with ExitStack() as opened:
            job = None
            with errors.collect(title):
                source = opened.enter_context(open_frames(video))
                job = _plan(request, video, source, folder)
            if job is None:
                continue
            predictor = predictor or request.model.video_predictor()
            with errors.collect(title, job.results.left_behind):
                _track_video(predictor, job)
    errors.report()
    if request.model.hint:
        typer.echo(request.model.hint)


def _track_video(predictor: Any, job: _Job) -> None:
    """Track one video and write each frame's results."""
    state, results = _session(predictor, job), job.results
    # Going backward from frame 0, `propagate` visits no frame but still has to answer frame 0.
    reverse = job.reverse and job.begin > 0
    reach = abs(job.stop - job.begin)
    clock = time.perf_counter()
    try:
        with results:
            found = predictor.propagate(
                state, job.begin, reach, reverse, frame_progress("tracking")
            )
            for result in one_behind(found):
                if result is not None:
                    # The overlay video runs forward in time: going backward, draw it afterwards.
                    frame = None if job.reverse else job.source[result.frame_idx]
                    results.write(result.frame_idx, result, frame)
        seconds = time.perf_counter() - clock
    finally:
        if job.reverse:
            results.draw(job.source)
    objects = count_of(len(state["obj_ids"]), "object")
    results.show(objects, f"{len(results.written) / seconds:.1f} frames/s")


def _folders(request: TrackRequest) -> dict[Path, Path]:
    """Output folder of each video: `request.output`, or a subfolder per video if several."""
    videos = [Path(video) for video in request.videos]
    if len(videos) == 1:
        return {videos[0]: request.output}
    folders: dict[Path, Path] = {}
    for video in videos:
        name = video.resolve().name if video.is_dir() else video.stem
        folder = request.output / name
        for other, taken in folders.items():
            if taken == folder:
                raise InputError(f"{other} and {video} would both go to {folder}: rename one")
        folders[video] = folder
    return folders


@dataclass(frozen=True)
class _Job:
    """One video, its prompts, the frames to track and their order."""

    source: FrameSource
    prompts: list[ObjectPrompt]
    begin: int
    stop: int
    reverse: bool
    results: TrackResults


def _plan(request: TrackRequest, video: Path, source: FrameSource, folder: Path) -> _Job:
    canvas = Canvas(video.name, len(source), source.height, source.width)
    first, last = _range(request, canvas.name, len(source))
    reverse = request.reverse
    default_frame = last if reverse else first
    prompts = collect_prompts(canvas, request.points, request.boxes, request.masks, default_frame)
    _check_range(prompts, first, last)
    facts = {
        "path": str(video),
        "frames": len(source),
        "width": source.width,
        "height": source.height,
        "fps": source.fps,
    }
    results = TrackResults(folder, facts, request.model.title, overwrite=request.overwrite)
    prompted = [prompt.frame for prompt in prompts]
    begin, stop = (max(prompted), first) if reverse else (min(prompted), last)
    return _Job(source, prompts, begin, stop, reverse, results)


def _range(request: TrackRequest, name: str, num_frames: int) -> tuple[int, int]:
    first = 0 if request.start is None else request.start
    last = num_frames - 1 if request.end is None else request.end
    for option, frame in (("--start", first), ("--end", last)):
        if not 0 <= frame < num_frames:
            raise InputError(f"{option} {frame}: {name} has frames 0 to {num_frames - 1}")
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


def _session(predictor: Any, job: _Job) -> Any:
    """Session with all prompts added. It is tracked once, so it keeps no history."""
    state = predictor.init_state(job.source, history="window")
    for prompt in job.prompts:
        if prompt.mask is not None:
            predictor.add_new_mask(state, prompt.frame, prompt.obj_id, prompt.mask)
            continue
        predictor.add_new_points_or_box(
            state,
            prompt.frame,
            prompt.obj_id,
            points=np.array(prompt.points, np.float32) if prompt.points else None,
            labels=np.array(prompt.labels, np.int32) if prompt.labels else None,
            box=prompt.box,
        )
    return state
