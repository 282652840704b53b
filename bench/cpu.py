"""Time a frame of video on the CPU against `sam2`: `python -m bench.cpu`.

A frame is what `propagate_in_video` does for it: the image is encoded, all objects are tracked,
and masks are enlarged to the video. Both have the same random weights and full memory, a
tracked frame's many times over; their frames alternate, so that a busy machine slows both. With
`--threads 1` the time is the processor's, which does not count what others do on it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests import reference  # isort: skip  # before fastsam2

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine import feature_stage
from fastsam2.engine.memory_reader import MemoryReader
from fastsam2.engine.memory_writer import MemoryWriter
from fastsam2.engine.object_decoder import ObjectDecoder
from fastsam2.predictors import answers
from tests.support import write_clip

__all__ = ["compare", "main"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Stages of a frame, and what runs each; the rest is what they leave.
STAGES: dict[str, tuple[Any, str]] = {
    "encoder": (feature_stage, "encode_image"),
    "attention": (MemoryReader, "__call__"),
    "decoder": (ObjectDecoder, "__call__"),
    "writer": (MemoryWriter, "__call__"),
    "holes": (answers, "fill_holes"),
}
#: Frames before the timed ones: as many as pointers are read of.
HISTORY = 16
SIZE = (720, 1280)  #: of the video


def compare(name: str, image_size: int, dtype: str, objects: int, frames: int) -> str:
    """A row of the table: times of both, their ratio, and where ours goes, all medians."""
    ref = reference.video_predictor(name, image_size)
    ours = build_sam2_video_predictor(
        name,
        device="cpu",
        dtype=DTYPES[dtype],
        hydra_overrides_extra=[f"++model.image_size={image_size}"],
    )
    ours.load_state_dict(ref.state_dict())
    # `sam2` computes in half precision where its caller says so.
    half = torch.autocast("cpu", DTYPES[dtype], enabled=dtype != "fp32")
    spent: dict[str, float] = defaultdict(float)
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, _timed_stages(spent):
        height, width = SIZE
        clip = write_clip(Path(folder), HISTORY + 1 + frames, height=height, width=width)
        with half:
            theirs_next = _track(ref, clip, objects)
        ours_next = _track(ours, clip, objects)
        for _ in range(1 + frames):
            with half:
                times["sam2"].append(_seconds(theirs_next))
            spent.clear()
            times["ours"].append(_seconds(ours_next))
            for stage in STAGES:
                times[stage].append(spent[stage])
            times["rest"].append(times["ours"][-1] - sum(spent.values()))
    # The first frame of each warms up.
    ratio = statistics.median(
        a / b for a, b in zip(times["sam2"][1:], times["ours"][1:], strict=True)
    )
    ms = {key: 1e3 * statistics.median(values[1:]) for key, values in times.items()}
    stages = "".join(f"{ms[stage]:10.0f}" for stage in (*STAGES, "rest"))
    return f"{dtype:5} {objects:7} {ms['sam2']:8.0f} {ms['ours']:8.0f} {ratio:6.2f}{stages}"


def _track(predictor: Any, clip: Path, objects: int) -> Iterator[Any]:
    """Frames from `HISTORY` on, with everything before them remembered."""
    state = predictor.init_state(str(clip))
    height, width = SIZE
    for i in range(objects):
        x, y = width * (0.1 + 0.08 * i), height * (0.2 + 0.05 * i)
        box = [x, y, x + 0.2 * width, y + 0.3 * height]
        predictor.add_new_points_or_box(state, frame_idx=0, obj_id=i, box=box)
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=1):
        pass
    for outputs in state["output_dict_per_obj"].values():
        tracked = outputs["non_cond_frame_outputs"]
        for t in range(2, HISTORY):
            tracked[t] = tracked[1]
    return predictor.propagate_in_video(state, start_frame_idx=HISTORY)


def _now() -> float:
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _seconds(frames: Iterator[Any]) -> float:
    begin = _now()
    next(frames)
    return _now() - begin


@contextlib.contextmanager
def _timed_stages(spent: dict[str, float]) -> Iterator[None]:
    """Add the seconds that each stage takes to `spent`."""

    def timed(stage: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = _now()
            out = function(*args, **kwargs)
            spent[stage] += _now() - begin
            return out

        return call

    with contextlib.ExitStack() as stack:
        for stage, (owner, name) in STAGES.items():
            function = timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.cpu")
    parser.add_argument("--model", default="sam2.1-tiny", choices=reference.CONFIGS)
    parser.add_argument("--image-size", type=int, default=1024, help="pixels, a multiple of 64")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--frames", type=int, default=5, help="timed frames, of which the median")
    parser.add_argument("--threads", type=int, help="by default as many as PyTorch takes")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    print(f"{args.model} at {args.image_size} px, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; milliseconds a frame")
    stages = "".join(f"{stage:>10}" for stage in (*STAGES, "rest"))
    print(f"dtype objects     sam2     ours  ratio{stages}")
    for dtype in args.dtype:
        for objects in args.objects:
            print(compare(args.model, args.image_size, dtype, objects, args.frames), flush=True)


if __name__ == "__main__":
    main()
