"""Ablation: enable one option after another, starting from `sam2`: `python -m bench.run ladder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.peers import Ours, Peer, Sam2, Setting
from bench.rows import Row
from bench.scenarios import accuracy_rows, track_rows

__all__ = ["RUNGS", "ladder_rows", "rungs"]

_FLAGS: tuple[tuple[str, str, object], ...] = (
    ("folded, batched", "impl", "reference"),
    ("+ kernels", "impl", "auto"),
    ("+ encoding ahead", "encoder_batch", 4),
    ("+ graphs", "graphs", True),
    ("+ compiled", "compile", True),
)


def rungs() -> Iterator[Peer]:
    """Yield the rungs, each with one more option than the one before; and `sam2`, also compiled."""
    yield Sam2()
    yield Sam2(compiled=True)
    choices: dict[str, object] = {}
    for name, flag, value in _FLAGS:
        choices[flag] = value
        yield Ours(name, adds=flag, **choices)


#: Rungs by name, in order.
RUNGS: dict[str, Peer] = {rung.name: rung for rung in rungs()}


def ladder_rows(
    peers: Sequence[Peer], setting: Setting, objects: Sequence[int], frames: int
) -> Iterator[Row]:
    """Measure frames per second of each rung, and the IoU of nano's masks."""
    yield from track_rows(peers, setting, objects, frames)
    yield from accuracy_rows(peers, setting, frames=24 if frames > 4 else 4)
