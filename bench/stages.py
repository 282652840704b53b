"""Where the time of a frame goes: each stage alone, ours and that of `sam2`, at full memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench.peers import Ours, Peer, Sam2, Setting
from bench.roofline import measure_limits
from bench.rows import NAMES, Row, measured_on
from bench.scenarios import failed
from bench.timing import time_call
from bench.work import STEP, count_ours, count_theirs, our_stages, their_stages

__all__ = ["stage_rows"]


def stage_rows(peers: Sequence[Peer], setting: Setting) -> Iterator[Row]:
    """Times of the stages of those peers whose stages are known; the step is all after the first.

    `sam2` runs all but the image encoder once for each object.
    """
    for peer in peers:
        if not isinstance(peer, (Ours, Sam2)):
            continue
        reason = peer.missing(setting)
        if not reason:
            try:
                yield from _stages(peer, setting)
            except Exception as error:
                reason = failed(error)
        if reason:
            yield _row(peer, setting, STEP, note=reason)


@torch.inference_mode()
def _stages(peer: Ours | Sam2, setting: Setting) -> Iterator[Row]:
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
        yield _row(peer, setting, name, **times.fields, **work)


def _repeated(run: Callable[[], object], times: int) -> Callable[[], object]:
    def all_objects() -> None:
        for _ in range(times):
            run()

    return all_objects


def _row(peer: Peer, setting: Setting, name: str, **fields: Any) -> Row:
    return Row(
        "stage", name, peer.name, setting.model, setting.image_size, setting.objects,
        setting.dtype, **fields, **measured_on(setting.device),
    )  # fmt: skip
