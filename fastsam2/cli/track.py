"""`fastsam2 track`: objects through videos, each into an overlay video, label images and JSON."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from tqdm import tqdm

from fastsam2.cli.live import track_live
from fastsam2.cli.prompts import Canvas, ObjectPrompt, check_given, collect_prompts
from fastsam2.cli.reporting import ErrorList, report_errors
from fastsam2.cli.request import TrackRequest
from fastsam2.cli.results import TrackResults, count_of
from fastsam2.data.open_frames import FrameSource, open_frames
from fastsam2.errors import InputError
from fastsam2.predictors.results import one_behind

__all__ = ["track"]

_OPEN_AT_ONCE = 8  # videos: each holds decoded frames, a decoder with its threads, and a session


def track(request: TrackRequest) -> None:
    """Tracks and writes the results; reports errors and exits."""
    with report_errors():
        check_given(request.points, request.boxes, request.masks)
        if request.is_live:
            track_live(request)
            return
        for option, value in (("--policy", request.policy), ("--frames", request.frames)):
            if value is not None:
                raise InputError(f"{option} {value} is for live sources: take one, or --stream")
        _track_videos(request)


def _track_videos(request: TrackRequest) -> None:
    """Some at a time; what is wrong with one video is reported when the others are done."""
    errors, predictor = ErrorList(), None
    videos = list(_folders(request).items())
    for first in range(0, len(videos), _OPEN_AT_ONCE):
        jobs: list[_Job] = []
        with ExitStack() as opened:
            for video, folder in videos[first : first + _OPEN_AT_ONCE]:
                title = str(video) if len(videos) > 1 else ""
                with errors.put_off(title):
                    source = opened.enter_context(open_frames(video))
                    jobs.append(_plan(request, video, source, folder, title))
            if jobs:
                predictor = predictor or request.model.video_predictor()
                _do(predictor, jobs, errors)
    errors.report()
    if request.model.remark:
        typer.echo(request.model.remark)


def _do(predictor: Any, jobs: list[_Job], errors: ErrorList) -> None:
    """All videos in turns, a frame of each, so that those frames are encoded in one batch."""
    runs: list[_Run] = []
    for job in jobs:
        with errors.put_off(job.title):
            runs.append(_Run(predictor, job))
    total = sum(len(run.job.frames) for run in runs)
    with tqdm(total=total, desc="tracking", unit="frame", disable=None) as progress:
        try:
            while runs:
                _encode_next(predictor, runs)
                # What is done need not stay in memory.
                runs[:] = [run for run in runs if _step(run, errors, progress)]
        finally:
            for run in runs:
                run.close()


def _encode_next(predictor: Any, runs: list[_Run]) -> None:
    clock = time.perf_counter()
    wanted = [(run.state, run.next_frame) for run in runs if run.next_frame is not None]
    if wanted:
        predictor.encode_frames(wanted)
    for run in runs:
        run.seconds += (time.perf_counter() - clock) / len(runs)


def _step(run: _Run, errors: ErrorList, progress: Any) -> bool:
    """One more frame of a video; whether there are others."""
    goes_on, written = False, len(run.job.results.written)
    with errors.put_off(run.job.title, run.job.results.left_behind):
        goes_on = run.step()
        progress.update(len(run.job.results.written) - written)
    if not goes_on:
        run.close()
    return goes_on


def _folders(request: TrackRequest) -> dict[Path, Path]:
    """Where the results of each video go: of several, each has a folder of its own name."""
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
    """One video, what is prompted there, and which frames are to be tracked, in which order."""

    title: str  #: what tells its errors from those of other videos
    source: FrameSource
    prompts: list[ObjectPrompt]
    begin: int
    stop: int
    reverse: bool
    results: TrackResults

    @property
    def frames(self) -> range:
        """The frames, in the order in which they are tracked."""
        step = -1 if self.reverse else 1
        return range(self.begin, self.stop + step, step)


def _plan(
    request: TrackRequest, video: Path, source: FrameSource, folder: Path, title: str
) -> _Job:
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
    return _Job(title, source, prompts, begin, stop, reverse, results)


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
    """A session of the video, prompted; it is tracked once, so nothing is kept for another time."""
    state = predictor.init_state(job.source, history="window", feature_bytes=0)
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


class _Run:
    """One video being tracked, whose results are written as they come."""

    def __init__(self, predictor: Any, job: _Job) -> None:
        self.job = job
        self.state = _session(predictor, job)
        self.seconds = 0.0
        self._begun = 0
        self._steps = self._go(predictor)

    @property
    def next_frame(self) -> int | None:
        """The frame that `step` tracks; None when it only writes the last one."""
        return self.job.frames[self._begun] if self._begun < len(self.job.frames) else None

    def step(self) -> bool:
        """Begins a frame and writes what was found on the one before; whether there are more."""
        clock = time.perf_counter()
        next(self._steps)
        self._begun += 1
        self.seconds += time.perf_counter() - clock
        if self._begun <= len(self.job.frames):
            return True
        next(self._steps, None)  # completes the files
        return False

    def close(self) -> None:
        """Leaves the files valid; done twice it does nothing."""
        self._steps.close()
        self.job.source.close()

    def _go(self, predictor: Any) -> Generator[None, None, None]:
        job, results = self.job, self.job.results
        # Backward from frame 0 there is nothing to visit, but frame 0 itself has its masks.
        reverse = job.reverse and job.begin > 0
        reach = len(job.frames) - 1
        try:
            with results:
                found = predictor.propagate(self.state, job.begin, reach, reverse, _unseen)
                for result in one_behind(found):
                    if result is not None:
                        # A video is written in the order of time: going backward, afterwards.
                        frame = None if job.reverse else job.source[result.frame_idx]
                        results.write(result.frame_idx, result, frame)
                    yield
        finally:
            if job.reverse:
                results.draw(job.source)
        objects = count_of(len(self.state["obj_ids"]), "object")
        results.show(objects, f"{len(results.written) / self.seconds:.1f} frames/s")


def _unseen(frames: range, desc: str = "") -> range:
    """In the place of a progress bar: there is one for all videos."""
    return frames
