"""Costs of a frame on the host: Python calls, call depth, tensors that a stream holds, and the time
of results on the host relative to that of bool masks.

Host time apart, it uses public interfaces only, so that it also runs on earlier versions: set
`PYTHONPATH`.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

import fastsam2
from fastsam2 import SAM2StreamPredictor, build_sam2_video_predictor
from fastsam2.cli.main import app
from fastsam2.engine import plan
from fastsam2.engine.fused.mask_decoder import DecodedMasks
from fastsam2.engine.track_step import TrackStep
from fastsam2.modeling.backbones.hieradet import Hiera
from fastsam2.predictors import tracking
from fastsam2.predictors.results import FrameResult

__all__ = ["main"]

PACKAGES = tuple(
    str(Path(module.__file__ or "").parent)
    for module in (fastsam2, sys.modules["fastsam2_kernels"])
)


def _nano() -> Any:
    torch.manual_seed(0)
    return build_sam2_video_predictor("nano", None, device="cpu")


def _clip(frames: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (frames, 256, 320, 3), np.uint8)


@contextmanager
def _profile(on_call: Callable[[Any], None]) -> Iterator[None]:
    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            on_call(frame)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def steady_frame() -> tuple[int, list[str]]:
    """Python calls of one frame of `propagate`, and the functions of the package from there to the
    op that attends to memory."""
    model = _nano()
    state = model.init_state(_clip(24))
    model.add_new_points_or_box(state, 0, 1, points=[[160, 128]], labels=[1])
    frames = model.propagate(state, progress=lambda frames, desc: frames)
    for _ in range(20):
        next(frames)
    calls = 0
    chain: list[str] = []

    def on_call(frame: Any) -> None:
        nonlocal calls, chain
        calls += frame.f_code.co_filename.startswith(PACKAGES)
        if not chain and frame.f_code.co_name == "memory_attention":
            while frame is not None:
                file = frame.f_code.co_filename
                if file.startswith(PACKAGES):
                    chain.insert(0, f"{Path(file).name}:{frame.f_code.co_name}")
                frame = frame.f_back

    with _profile(on_call):
        next(frames)
    return calls, chain


def stream_bytes(frames: int = 40) -> float:
    """Bytes of the tensors that a stream holds of each object after some frames."""
    held = {}
    for objects in (1, 9):
        stream = SAM2StreamPredictor(_nano()).start()
        clip = _clip(frames)
        stream.step(clip[0])
        for obj_id in range(objects):
            stream.add_object(obj_id, points=[[160, 128]], labels=[1])
        for frame in clip[1:]:
            stream.step(frame)
        held[objects] = sum(_storages().values())
        del stream
    return (held[9] - held[1]) / 8


def _storages() -> dict[int, int]:
    gc.collect()
    found = {}
    for x in gc.get_objects():
        if type(x) is torch.Tensor and not x.is_sparse:
            storage = x.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def command_line_encodes() -> tuple[int, int]:
    """Frames of two videos, and images that `fastsam2 track` encodes for them, four ahead."""
    encoded = 0
    forward = Hiera.forward

    def count(self: Hiera, x: torch.Tensor, **kwargs: Any) -> Any:
        nonlocal encoded
        encoded += len(x)
        return forward(self, x, **kwargs)

    with (
        mock.patch.object(Hiera, "forward", count),
        mock.patch.object(plan, "_ahead", return_value=4),
        tempfile.TemporaryDirectory() as folder,
    ):
        videos = []
        for name in ("a", "b"):
            frames = Path(folder, name)
            frames.mkdir()
            for i, pixels in enumerate(_clip(20)):
                Image.fromarray(pixels).save(frames / f"{i:05d}.jpg")
            videos.append(str(frames))
        arguments = ["--point", "160,128", "--point", "60,60@5:2", "--device", "cpu"]
        out = str(Path(folder, "out"))
        outcome = CliRunner().invoke(app, ["track", *videos, *arguments, "-o", out])
    if outcome.exit_code:
        raise RuntimeError(outcome.output)
    return 40, encoded


def host_ratio(objects: int = 8, repeat: int = 15) -> float:
    """Time of `to_host` with labels and masks, relative to that of bool masks, at 720p."""
    torch.manual_seed(0)
    coarse = torch.randn(objects, 1, 6, 6)
    logits = torch.nn.functional.interpolate(coarse, (256, 256), mode="bicubic")

    def result() -> FrameResult:
        scores = torch.ones(objects)
        return FrameResult(0, list(range(objects)), logits, scores, scores, (720, 1280))

    def seconds(read: Callable[[FrameResult], object]) -> float:
        fresh = result()
        begin = time.perf_counter()
        read(fresh)
        return time.perf_counter() - begin

    def host(fresh: FrameResult) -> None:
        found = fresh.to_host()
        _ = found.labels, found.masks

    ratios = [seconds(host) / seconds(lambda r: r.masks) for _ in range(repeat)]
    return statistics.median(ratios[2:])


def host_ms(objects: int, frames: int = 60) -> float:
    """Processor time in ms of this thread for a frame, without the model: memory selection, block
    tables, records and results."""
    model = _nano()
    state = model.init_state(_clip(frames), history="window")
    for obj_id in range(objects):
        model.add_new_points_or_box(state, 0, obj_id, points=[[160, 128]], labels=[1])
    features = tracking._features(model, model.fast_paths(), state, 0)
    side, width = model.image_size // 4, model.hidden_dim
    masks = DecodedMasks(
        torch.zeros(objects, 1, side, side), torch.zeros(objects, 3),
        torch.zeros(objects, width), torch.ones(objects, 1),
    )  # fmt: skip
    spent = []

    def run(*_: Any) -> DecodedMasks:
        return masks

    with (
        mock.patch.object(TrackStep, "run", run),
        mock.patch.object(tracking, "_features", return_value=features),
    ):
        begin = time.thread_time()
        for _ in model.propagate(state, progress=lambda frames, desc: frames):
            spent.append(time.thread_time() - begin)
            begin = time.thread_time()
    return 1e3 * statistics.median(spent[20:])


def main() -> None:
    """Print the costs."""
    torch.set_num_threads(1)
    calls, chain = steady_frame()
    files = {name.partition(":")[0] for name in chain}
    print(f"Python calls of a steady frame (nano, 1 object)   {calls}")
    print(f"functions from propagate to the op                {len(chain)} in {len(files)} files")
    print(f"  {' > '.join(chain)}")
    print(f"tensors of a stream after 40 frames, an object    {stream_bytes() / 1e6:.2f} MB")
    frames, encoded = command_line_encodes()
    print(f"images encoded by the command line                {encoded} for {frames} frames")
    for objects in (1, 8, 128):
        name = f"host time of a frame, {objects} objects, model replaced"
        print(f"{name:49} {host_ms(objects):.2f} ms")
    print(f"to_host relative to bool masks, 8 objects, 720p   {host_ratio():.1f}")


if __name__ == "__main__":
    main()
