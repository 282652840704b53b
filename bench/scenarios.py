"""Benchmarks of whole frames: tracking, video file to masks, first mask, and accuracy."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.clips import Clip, make_video, write_jpegs
from bench.hf import Transformers
from bench.peers import HISTORY, Ours, Peer, Sam2, Setting, quiet, track
from bench.roofline import measure_limits
from bench.rows import NAMES, Row, measured_on
from bench.timing import Times, peak_mb, reset_peak, synchronize, time_frames
from bench.work import count_ours, count_theirs
from fastsam2.data.writers import MaskPngWriter, OverlayVideoWriter

__all__ = [
    "PEERS",
    "accuracy_rows",
    "attempt",
    "cold_rows",
    "failed",
    "make_row",
    "track_rows",
    "video_rows",
]

#: Peers compared by default.
PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Sam2(), Sam2(compiled=True), Transformers(), Ours())
}
VIDEO = (720, 1280)  #: height and width of the tracked video
#: On a GPU: warm-up frames, and the time limit in seconds of warm-up and timed frames, each.
_WARM, _SECONDS = 10, 4.0


def track_rows(
    peers: Sequence[Peer], setting: Setting, objects: Sequence[int], frames: int
) -> Iterator[Row]:
    """Time preprocessed frames at full memory, as `sam2/benchmark.py` does.

    Per frame: encode it, track all objects, resize masks to the video.
    """
    # On a GPU one peer at a time, so that its memory can be measured.
    alone = setting.device.type == "cuda"
    for group in [[peer] for peer in peers] if alone else [list(peers)]:
        reset_peak(setting.device)
        models: dict[str, Any] = {}
        for peer in group:
            reason = peer.missing(setting)
            if not reason:
                try:
                    models[peer.name] = peer.build(setting)
                except Exception as error:  # recorded; the other peers still run
                    reason = failed(error)
            if reason:
                yield from (
                    make_row("track", "frame", peer, replace(setting, objects=n), note=reason)
                    for n in objects
                )
        present = [peer for peer in group if peer.name in models]
        for n in objects:
            yield from _race(present, models, replace(setting, objects=n), frames)
            _free(setting.device)
            reset_peak(setting.device)
        del models, present
        _free(setting.device)


def _race(
    peers: Sequence[Peer], models: dict[str, Any], setting: Setting, frames: int
) -> Iterator[Row]:
    clip = make_video(setting.objects, HISTORY + _WARM + frames + 8, VIDEO)
    tracks: dict[str, Iterator[Tensor]] = {}
    faults: dict[str, str] = {}
    times: dict[str, Times] = {}
    for peer in peers:
        try:
            tracks[peer.name] = track(peer, models[peer.name], setting, clip)
            frames = min(frames, _warm_up(tracks[peer.name], setting.device))
        except Exception as error:
            tracks.pop(peer.name, None)
            faults[peer.name] = failed(error)
    try:
        times = time_frames(tracks, frames, setting.device)
    except Exception as error:
        faults |= dict.fromkeys(tracks, failed(error))
    for peer in peers:
        found = times.get(peer.name)
        if found is None:
            yield make_row("track", "frame", peer, setting, note=faults[peer.name])
        else:
            yield make_row(
                "track", "frame", peer, setting, frames=frames, peak_mb=peak_mb(setting.device),
                **found.fields, **_work(peer, setting, found),
            )  # fmt: skip


def _warm_up(frames: Iterator[Tensor], device: torch.device) -> int:
    """Track warm-up frames; return the number of frames to time."""
    if device.type != "cuda":
        next(frames)
        return sys.maxsize
    spent: list[float] = []
    while len(spent) < 3 or (len(spent) < _WARM and sum(spent[1:]) < _SECONDS):
        begin = time.perf_counter()
        next(frames)
        synchronize(device)
        spent.append(time.perf_counter() - begin)
    return max(5, int(_SECONDS / min(spent)))


def accuracy_rows(peers: Sequence[Peer], setting: Setting, frames: int) -> Iterator[Row]:
    """Measure the mean IoU of nano's masks with those of plain PyTorch in float32.

    Nano is used because it is trained: masks of random weights are meaningless. Two empty masks
    have an IoU of 1.
    """
    setting = Setting("nano", 256, 4, setting.dtype, setting.device)
    clip = make_video(setting.objects, frames, (256, 256), seed=11)
    # On the CPU, since a GPU may multiply float32 with reduced precision.
    exact = Setting("nano", 256, 4, "fp32")
    expected = _masks(Ours("exact", impl="reference"), exact, clip)

    def measure(peer: Peer) -> Iterator[Row]:
        iou = _iou(_masks(peer, setting, clip), expected)
        yield make_row("accuracy", "nano", peer, setting, frames=frames, iou=iou)

    for peer in peers:
        yield from attempt("accuracy", "nano", peer, setting, measure)
        _free(setting.device)


def _masks(peer: Peer, setting: Setting, clip: Clip) -> Tensor:
    model = peer.build(setting)
    state = peer.open(model, setting, clip)
    frames = peer.go(model, state, setting, 0)
    return torch.stack(
        [(logits[:, 0] > 0).cpu() for logits in itertools.islice(frames, clip.length)]
    )


def _iou(found: Tensor, expected: Tensor) -> float:
    union = (found | expected).sum((2, 3))
    both = (found & expected).sum((2, 3))
    return float(torch.where(union > 0, both / union.clamp(min=1), 1.0).mean())


def video_rows(peers: Sequence[Peer], setting: Setting, frames: int) -> Iterator[Row]:
    """Time from a video (mp4, or JPEG files for `sam2`) to one label PNG per frame."""
    clip = make_video(setting.objects, frames, VIDEO)

    def measure(peer: Peer) -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            video, form = _written(peer, clip, Path(folder))
            model = peer.build(setting)
            # On a GPU the first run compiles and allocates.
            for _ in range(1 if setting.device.type == "cpu" else 2):
                spent = _file_to_files(peer, model, setting, clip, video, Path(folder))
        yield make_row(
            "video", "file to masks", peer, setting, frames=frames, note=f"from {form}",
            p50_ms=1e3 * spent / frames, per_second=frames / spent,
        )  # fmt: skip

    for peer in peers:
        if isinstance(peer, (Ours, Sam2)):
            yield from attempt("video", "file to masks", peer, setting, measure)
            _free(setting.device)


def _written(peer: Peer, clip: Clip, folder: Path) -> tuple[Path, str]:
    if isinstance(peer, Ours) and importlib.util.find_spec("av") is not None:
        path = folder / "clip.mp4"
        with OverlayVideoWriter(path, fps=25.0, size=clip.size) as writer:
            for frame in clip:
                writer.write(frame)
        return path, "mp4"
    frames = folder / "frames"
    frames.mkdir()
    return write_jpegs(clip, frames), "JPEG files"


def _file_to_files(
    peer: Any, model: Any, setting: Setting, clip: Clip, video: Path, folder: Path
) -> float:
    writer = MaskPngWriter(folder / "masks")
    begin = time.perf_counter()
    with quiet():
        state = model.init_state(str(video))
    with peer.precision(setting):
        for obj_id, box in enumerate(clip.boxes):
            model.add_new_points_or_box(state, 0, obj_id, box=box)
    for frame_idx, logits in enumerate(peer.go(model, state, setting, 0)):
        masks = (logits[:, 0] > 0).cpu().numpy()
        # A palette image holds at most 255 objects.
        writer.write(frame_idx, {i + 1: mask for i, mask in enumerate(masks[:255])})
    return time.perf_counter() - begin


def cold_rows(peers: Sequence[Peer], setting: Setting) -> Iterator[Row]:
    """Time from the start of a process to the first tracked mask, on the second frame."""
    for peer in peers:
        reason = peer.missing(setting)
        if reason:
            yield make_row("cold", "first mask", peer, setting, note=reason)
            continue
        command = [
            sys.executable, "-m", "bench.scenarios", peer.name, setting.model,
            str(setting.image_size), str(setting.objects), setting.dtype, str(setting.device),
        ]  # fmt: skip
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        spent = 1e3 * (time.perf_counter() - begin)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            yield make_row("cold", "first mask", peer, setting, note=f"failed: {lines[-1]}")
        else:
            yield make_row("cold", "first mask", peer, setting, p50_ms=spent)


def _first_mask(peer: Peer, setting: Setting) -> None:
    clip = make_video(setting.objects, 4, VIDEO)
    model = peer.build(setting)
    state = peer.open(model, setting, clip)
    _, masks = itertools.islice(peer.go(model, state, setting, 0), 2)
    assert bool(masks.isfinite().all())


AnyPeer = TypeVar("AnyPeer", bound=Peer)


def attempt(
    kind: str,
    name: str,
    peer: AnyPeer,
    setting: Setting,
    measure: Callable[[AnyPeer], Iterator[Row]],
) -> Iterator[Row]:
    """Yield the rows of `measure`; if the peer cannot run or fails, a row with the reason."""
    reason = peer.missing(setting)
    if not reason:
        try:
            yield from measure(peer)
        except Exception as error:  # recorded; the other peers still run
            reason = failed(error)
    if reason:
        yield make_row(kind, name, peer, setting, note=reason)


def make_row(kind: str, name: str, peer: Peer, setting: Setting, **fields: Any) -> Row:
    """Return a row with the peer's name, the setting and the conditions filled in."""
    return Row(
        kind,
        name,
        peer.name,
        setting.model,
        setting.image_size,
        setting.objects,
        setting.dtype,
        **fields,
        **measured_on(setting.device),
    )


def _work(peer: Peer, setting: Setting, times: Times) -> dict[str, float]:
    """Operations per frame, and their share of the hardware's limit."""
    count: Callable[..., dict[str, int]]
    if isinstance(peer, Ours):
        count = count_ours
    elif isinstance(peer, Sam2) and setting.model != "nano":
        count = count_theirs
    else:
        return {}
    flops = sum(count(setting.model, setting.objects, setting.image_size).values())
    limits = measure_limits(setting.device, NAMES[setting.dtype])
    return {"gflop": flops / 1e9, "of_roof": limits.least_seconds(flops) * times.per_second}


def failed(error: Exception) -> str:
    """Note of a row for a failed measurement."""
    lines = str(error).strip().splitlines()
    return f"failed: {type(error).__name__}{': ' + lines[0] if lines else ''}"[:200]


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    from bench.ladder import RUNGS  # imports this module

    _name, _model, _size, _objects, _dtype, _device = sys.argv[1:]
    _first_mask(
        (PEERS | RUNGS)[_name],
        Setting(_model, int(_size), int(_objects), _dtype, torch.device(_device)),
    )
