"""Time from the logits of a frame to each form of its results, as a ratio to bool masks alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.rows import Row, measured_on
from bench.scenarios import VIDEO
from bench.timing import time_frames
from fastsam2.data.writers import TrackJsonWriter
from fastsam2.predictors.results import FrameResult, HostResult

__all__ = ["output_rows"]


@torch.inference_mode()
def output_rows(
    device: torch.device, image_size: int, objects: Sequence[int], frames: int
) -> Iterator[Row]:
    """Each form read from a fresh result; bool masks are those of plain interpolation."""
    for n in objects:
        coarse = torch.randn(n, 1, 6, 6, device=device)
        logits = F.interpolate(coarse, (image_size // 4, image_size // 4), mode="bicubic")
        with tempfile.TemporaryDirectory() as folder:
            writer = TrackJsonWriter(Path(folder) / "tracks.json", {})
            forms: dict[str, Callable[[FrameResult], object]] = {
                "bool masks, interpolated": lambda _, x=logits: _interpolated(x),  # type: ignore[misc]
                "masks": lambda result: result.masks,
                "boxes": lambda result: result.boxes,
                "rle": lambda result: result.rle(),
                "to_host": _to_host,
                "to_host, JSON": partial(_write, writer),
            }
            reads = {name: _read(logits, form) for name, form in forms.items()}
            for read in reads.values():
                next(read)
            times = time_frames(reads, frames, device)
            base = times["bool masks, interpolated"].p50
            for name, found in times.items():
                yield Row(
                    "output", name, "fastsam2", "", image_size, n, "fp32", frames, **found.fields,
                    note=f"{found.p50 / base:.2f}x bool masks", **measured_on(device),
                )  # fmt: skip
            writer.close()


def _read(logits: Tensor, form: Callable[[FrameResult], object]) -> Iterator[object]:
    scores = logits.new_ones(len(logits))
    obj_ids = list(range(1, len(logits) + 1))
    while True:
        yield form(FrameResult(0, obj_ids, logits, scores, scores, VIDEO))


def _interpolated(logits: Tensor) -> list[Tensor]:
    # One at a time, so that the logits stay in the cache of a CPU.
    return [F.interpolate(x[None], VIDEO, mode="bilinear") > 0 for x in logits]


def _to_host(result: FrameResult) -> HostResult:
    host = result.to_host()
    _ = host.labels, host.masks
    return host


def _write(writer: TrackJsonWriter, result: FrameResult) -> None:
    host = result.to_host()
    writer.write(0, dict(zip(host.obj_ids, host.encode(), strict=True)))
