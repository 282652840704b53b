"""Tensors that depend on weights and sizes alone, and need not be computed for every image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Constant", "fingerprint"]


def fingerprint(weights: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Changes when one of them is replaced, moved, cast, or written to."""
    return tuple((w.data_ptr(), -1 if w.is_inference() else w._version) for w in weights)


class Constant:
    """Keeps such a tensor, one for each size, until the weights change.

    Where gradients are wanted, and while PyTorch traces the model, it is computed anew.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[object, Tensor]] = {}

    def __call__(
        self, size: Hashable, weights: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """What `compute` returns, now or the last time."""
        learning = torch.is_grad_enabled() and any(w.requires_grad for w in weights)
        if learning or torch.compiler.is_compiling():
            return compute()
        now = fingerprint(weights)
        before, value = self._kept.get(size, (None, None))
        if value is None or before != now:
            # Kept longer than this call: it must serve under autograd too.
            with torch.inference_mode(False), torch.no_grad():
                value = compute()
            self._kept[size] = (now, value)
        return value
