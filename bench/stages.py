"""Benchmark of the stages of a frame, each alone, at full memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch

from bench.peers import Ours, Peer, Sam2, Setting
from bench.roofline import measure_limits
from bench.rows import NAMES, Row
from bench.scenarios import attempt, make_row
from bench.timing import time_call
from bench.work import STEP, count_ours, count_theirs, our_stages, their_stages

__all__ = ["stage_rows"]


def stage_rows(peers: Sequence[Peer], setting: Setting) -> Iterator[Row]:
    """Time the stages of fastsam2 and `sam2`; the track step is all but the image encoder.

    `sam2` runs all but the image encoder once per object.
    """
    for peer in peers:
        if isinstance(peer, (Ours, Sam2)):
            measure = functools.partial(_stages, setting)
            yield from attempt("stage", STEP, peer, setting, measure)


@torch.inference_mode()
def _stages(setting: Setting, peer: Ours | Sam2) -> Iterator[Row]:
    model, objects = peer.build(setting), setting.objects
    known = setting.model, objects, setting.image_size
    stages: dict[str, Callable[[], object]]
    if isinstance(peer, Ours):
        stages, counts = our_stages(model, objects), count_ours(*known)
    else:
        stages = {
            name: run if name == "image encoder" else _repeated(run, objects)
            for name, run in their_stages(model).items()
        }
        counts = count_theirs(*known) if setting.model != "nano" else {}
    limits = measure_limits(setting.device, NAMES[setting.dtype])
    for name, run in stages.items():
        with peer.precision(setting):
            times = time_call(run, setting.device)
        flops = counts.get(name)
        work = {}
        if flops is not None:
            least = limits.least_seconds(flops)
            work = {"gflop": flops / 1e9, "of_roof": 1e3 * least / times.p50}
        yield make_row("stage", name, peer, setting, **times.fields, **work)


def _repeated(run: Callable[[], object], times: int) -> Callable[[], object]:
    def all_objects() -> None:
        for _ in range(times):
            run()

    return all_objects
