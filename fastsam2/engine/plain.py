"""Whether a part of the model is still what was loaded, so that a shortcut may take its place."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fastsam2.modeling.constants import fingerprint
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["Shortcut", "is_plain"]

T = TypeVar("T")


class Shortcut(Generic[T]):
    """What stands in for parts of a model: made of their weights, and made anew when they change.

    Args:
        parts: the modules it replaces, and other weights it is made of.
        build: makes it; None where a model is built in a way that excludes it.
    """

    def __init__(
        self,
        parts: Callable[[SAM2Base], Sequence[nn.Module | Tensor]],
        build: Callable[[SAM2Base], T | None],
    ) -> None:
        self._parts = parts
        self._build = build
        self._made: weakref.WeakKeyDictionary[SAM2Base, tuple[object, T | None]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self, model: SAM2Base) -> T | None:
        """The shortcut of this model; None where its own modules must run (see `is_plain`)."""
        parts = self._parts(model)
        if not all(is_plain(part) for part in parts if isinstance(part, nn.Module)):
            return None
        source = (model.impl, *(fingerprint(_weights(part)) for part in parts))
        made = self._made.get(model)
        if made is None or made[0] != source:
            made = (source, self._build(model))
            self._made[model] = made
        return made[1]


def is_plain(module: nn.Module) -> bool:
    """Whether calling `module` does no more than the package's own code with its weights.

    Not so where a part was replaced, wrapped, hooked, compiled or given another `forward`, in
    training, or where gradients are wanted: then the modules themselves must run.
    """
    if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
        return False
    return all(_is_own(part) for part in module.modules())


def _is_own(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind.__module__.startswith(("fastsam2.modeling.", "torch.nn.modules."))
        and not module.training
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and module._compiled_call_impl is None
    )


def _weights(part: nn.Module | Tensor) -> Iterable[Tensor]:
    return part.parameters() if isinstance(part, nn.Module) else (part,)
