"""Check steady frames on a GPU: no wait for the device, few launches, graphs that are replayed.

    python -m bench.steady --out DIR

`torch.cuda.set_sync_debug_mode("error")` raises at operations that wait; PyTorch's profiler counts
launches and copies. On a CPU it only tests that it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.clips import make_video
from bench.rows import Row, append_rows, measured_on
from fastsam2 import build_sam2_video_predictor

__all__ = ["EVENTS", "MOST", "count", "main", "wrong"]

#: Events of the CUDA runtime by the start of their names in a profile.
EVENTS = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel"),
    "graphs": ("cudaGraphLaunch",),
    "uploads": ("Memcpy HtoD",),
    "downloads": ("Memcpy DtoH",),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize"),
}
#: Limits a frame, as in tests/engine/test_steady_state.py, which counts without a GPU.
MOST = {"launches": 12.0, "uploads": 2.0, "downloads": 2.0, "waits": 0.0}
#: Frames until maps and pointers leave the device, and frames that are counted.
_WARM, _FRAMES = 24, 8


def count(names: Iterable[str], frames: int) -> dict[str, float]:
    """Return the events of a frame, by kind, from the names of all events of several frames."""
    found: Counter[str] = Counter()
    for name in names:
        for kind, starts in EVENTS.items():
            found[kind] += name.startswith(starts)
    return {kind: found[kind] / frames for kind in EVENTS}


def wrong(counts: dict[str, float]) -> list[str]:
    """Return the kinds whose number is out of bounds."""
    above = [kind for kind, most in MOST.items() if counts[kind] > most]
    return above if counts["graphs"] >= 1 else [*above, "graphs"]


def _frames(model: Any, objects: int) -> Iterator[Any]:
    clip = make_video(objects, _WARM + 2 * _FRAMES + 8, (720, 1280))
    state = model.init_state(np.stack(list(clip)))
    for obj_id, box in enumerate(clip.boxes):
        model.add_new_points_or_box(state, 0, obj_id, box=box)
    for result in model.propagate(state, progress=lambda frames, desc: frames):
        yield result.to_host()


def check(model: Any, objects: int) -> dict[str, float]:
    """Track a clip; return the events of a steady frame.

    Raises:
        RuntimeError: an operation of a steady frame waits for the device.
    """
    cuda = model.device.type == "cuda"
    frames = _frames(model, objects)
    for _ in range(_WARM):
        next(frames)
    if cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(_FRAMES):
            next(frames)
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        for _ in range(_FRAMES):
            next(frames)
    return count((event.name for event in found.events()), _FRAMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the numbers of objects asked for; return 1 if a count is out of bounds."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.steady", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="sam2.1-tiny")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8, 16])
    args = parser.parse_args(arguments)
    model = build_sam2_video_predictor(args.model, device=args.device, plan="auto")
    status = 0
    for objects in args.objects:
        try:
            counts = check(model, objects)
            note = ", ".join(f"{n:g} {kind}" for kind, n in counts.items())
            bad = wrong(counts) if args.device == "cuda" else []
        except RuntimeError as error:
            note, bad = str(error).splitlines()[0], ["waits"]
        status |= bool(bad)
        note += f"; too many or too few: {', '.join(bad)}" if bad else ""
        print(f"{args.model}, {objects} objects: {note}", flush=True)
        row = Row(
            "steady", "frame", "fastsam2", model=args.model, objects=objects, note=note,
            **measured_on(torch.device(args.device)),
        )  # fmt: skip
        append_rows(args.out / "rows.csv", [row])
    return status


if __name__ == "__main__":
    sys.exit(main())
