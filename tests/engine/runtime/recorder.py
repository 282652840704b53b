"""What a CUDA graph does, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fastsam2.engine.runtime.pytree import map_tensors, tensors

T = TypeVar("T")


class FakeRecorder:
    """Records the operations on tensors: whatever Python does between them is not done again."""

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

        # Before the first replay there is nothing to read.
        for place in tensors(out):
            place.fill_(float("nan"))
        return replay, out
