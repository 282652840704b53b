"""Emulation of CUDA graphs on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fastsam2.engine.runtime.pytree import map_tensors, tensors

T = TypeVar("T")


class FakeRecorder:
    """Records tensor operations; like a graph, replay skips the Python code between them."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
        self.recorded += 1
        out = map_tensors(run(), torch.clone)
        again = make_fx(lambda: list(tensors(run())))()

        def replay() -> None:
            self.replayed += 1
            for place, value in zip(tensors(out), again(), strict=True):
                place.copy_(value)

        # Capture does not compute: results are undefined before the first replay.
        for place in tensors(out):
            place.fill_(float("nan"))
        return replay, out
