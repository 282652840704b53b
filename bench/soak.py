"""Memory use over a long run with nano: thousands of frames, with objects added and removed.

    python -m bench.soak --mode stream --frames 5000
    python -m bench.soak --mode full --frames 600

prints the resident memory of the process and the size of the session's tensors. With `stream` and
`window`, memory must stay flat, else the exit status is 1; `full` grows with the video.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.clips import bounce
from fastsam2 import SAM2StreamPredictor, SAM2VideoPredictor, build_sam2_video_predictor
from fastsam2.data.frame_source import Frame, FrameSource
from fastsam2.nano.synthetic import make_clip

__all__ = ["held_bytes", "main", "resident_bytes", "samples"]

#: Tolerated growth of memory, and the frame from which it is measured.
_FLAT, _WARM = 0.02, 500
#: Frames between replacements of an object.
_TURNOVER = 50


class Loop(FrameSource):
    """Clip with occlusions and absences, played forward and backward."""

    def __init__(self, frames: int, size: int, seed: int = 900_100) -> None:
        super().__init__("the synthetic clip")
        self._clip = make_clip(seed, 60, level=2, size=size)
        self._length = frames
        self.height = self.width = size

    def __len__(self) -> int:
        return self._length

    def _read(self, frame_idx: int) -> Frame:
        return self._clip.frames[bounce(frame_idx, len(self._clip.frames))]

    def mask(self, frame_idx: int, number: int) -> np.ndarray:
        """Mask of one of the visible objects of a frame."""
        labels = self._clip.labels[bounce(frame_idx, len(self._clip.labels))]
        seen = [label for label in np.unique(labels) if label] or [0]
        return labels == seen[number % len(seen)]

    def _release(self) -> None:
        pass


def resident_bytes() -> int:
    """Resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def held_bytes(holder: Any) -> int:
    """Size of all tensors reachable from an object; shared storage counts once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    todo = [holder]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (torch.nn.Module, FrameSource)):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            todo += item
        elif hasattr(item, "__dict__"):
            todo += vars(item).values()
    return sum(storages.values())


def streamed(model: SAM2VideoPredictor, video: Loop, objects: int) -> Iterator[Any]:
    """Track a stream; yield the session after each frame."""
    stream = SAM2StreamPredictor(model).start()
    fresh = 0
    for frame_idx in range(len(video)):
        stream.step(video[frame_idx])
        if frame_idx % _TURNOVER == 0:
            if len(stream.obj_ids) == objects:
                stream.remove_object(stream.obj_ids[0])
            while len(stream.obj_ids) < objects:
                stream.add_object(fresh, mask=video.mask(frame_idx, fresh))
                fresh += 1
        elif frame_idx % 7 == 0:
            stream.correct(stream.obj_ids[-1], mask=video.mask(frame_idx, fresh))
        yield stream


def tracked(model: SAM2VideoPredictor, video: Loop, objects: int, history: Any) -> Iterator[Any]:
    """Track a video; yield the state of the objects after each frame."""
    state = model.init_state(video, history=history)
    for obj_id in range(objects):
        model.add_new_mask(state, 0, obj_id, video.mask(0, obj_id))
    for _ in model.propagate(state, progress=lambda frames, desc: frames):
        yield state.objects, state._pool


def samples(mode: str, frames: int, objects: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield about 20 samples: frame, resident bytes, and bytes of the session's tensors."""
    model = build_sam2_video_predictor(
        "nano", device="cpu", hydra_overrides_extra=[f"++model.image_size={size}"]
    )
    video = Loop(frames, size)
    if mode == "stream":
        run = streamed(model, video, objects)
    else:
        run = tracked(model, video, objects, mode)
    warm = min(_WARM, frames // 4)
    for frame_idx, session in enumerate(run):
        if frame_idx >= warm and (frame_idx - warm) % max(1, frames // 20) == 0:
            yield frame_idx, resident_bytes(), held_bytes(session)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if memory grew that must stay flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mode", choices=["stream", "window", "full"], default="stream")
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="image size in pixels")
    options = parser.parse_args(arguments)
    rows: list[tuple[int, int, int]] = []
    print(f"{options.mode}, {options.objects} objects, {options.size} pixels")
    print("  frame  resident MB  session MB")
    for row in samples(options.mode, options.frames, options.objects, options.size):
        rows.append(row)
        print(f"{row[0]:7}  {row[1] / 1e6:11.1f}  {row[2] / 1e6:10.2f}", flush=True)
    (first, *before), (last, *after) = rows[0], rows[-1]
    growth = [b / a - 1 for a, b in zip(before, after, strict=True)]
    each = (after[1] - before[1]) / ((last - first) * options.objects)
    print(
        f"from frame {first} to {last}: resident memory {growth[0]:+.1%}, session "
        f"{growth[1]:+.1%} ({each / 1e3:.1f} kB per frame and object)"
    )
    # Of a video, decoded frames fill a cache of fixed size.
    flat = {"stream": growth, "window": growth[1:], "full": []}[options.mode]
    return int(any(x >= _FLAT for x in flat))


if __name__ == "__main__":
    sys.exit(main())
