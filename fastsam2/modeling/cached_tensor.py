"""Cache of tensors that depend on nothing but weights and sizes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

__all__ = ["CachedTensor", "fingerprint", "is_traced"]

T = TypeVar("T", bound=Tensor | tuple[Tensor, ...])


def fingerprint(weights: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Return a key that changes when a weight is replaced, moved, cast or written to."""
    return tuple((w.data_ptr(), -1 if w.is_inference() else w._version) for w in weights)


def is_traced() -> bool:
    """True if PyTorch is tracing the caller. `torch.compiler.is_compiling` alone is also true while
    another thread compiles."""
    if torch.compiler.is_dynamo_compiling():
        return True
    return torch.compiler.is_compiling() and detect_fake_mode() is not None


class CachedTensor(Generic[T]):
    """Caches a tensor, or a tuple of them, for each size until the weights change.

    It is computed anew when weights require gradients, and while PyTorch traces the model, except
    for one without weights that is cached already.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[object, T]] = {}

    def __call__(self, size: Hashable, weights: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """Return the cached value for `size`, or that of `compute` if `weights` have changed."""
        learning = torch.is_grad_enabled() and any(w.requires_grad for w in weights)
        if learning or ((weights or size not in self._kept) and is_traced()):
            return compute()
        now = fingerprint(weights)
        before, value = self._kept.get(size, (None, None))
        if value is None or before != now:
            # It outlives this call, and later calls may be under autograd.
            with torch.inference_mode(False), torch.no_grad():
                value = compute()
            self._kept[size] = (now, value)
        return value
