"""Whether a part of the model is still what was loaded, so that a shortcut may take its place."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.modeling.cached_tensor import fingerprint
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["FastPath", "is_plain"]

T = TypeVar("T")


class FastPath(Generic[T]):
    """What stands in for parts of a model: made of their weights, and made anew when they change.

    Whether they have is asked on every frame, so it is asked in as few steps as can be.

    Args:
        parts: names of the modules it replaces.
        build: makes it; None where a model is built in a way that excludes it.
        weights: what else it is made of.
    """

    def __init__(
        self,
        parts: Sequence[str],
        build: Callable[[SAM2Base], T | None],
        weights: Callable[[SAM2Base], Sequence[Tensor | None]] = lambda model: (),
    ) -> None:
        self._parts = parts
        self._build = build
        self._weights = weights
        self._made: weakref.WeakKeyDictionary[SAM2Base, tuple[object, T | None]] = (
            weakref.WeakKeyDictionary()
        )
        self._seen: weakref.WeakKeyDictionary[SAM2Base, list[_Seen]] = weakref.WeakKeyDictionary()

    def __call__(self, model: SAM2Base) -> T | None:
        """The shortcut of this model; None where its own modules must run (see `is_plain`)."""
        modules = self._modules(model)
        if modules is None:
            return None
        weights = [w for w in self._weights(model) if w is not None]
        for module in modules:
            weights += [w for w in module._parameters.values() if w is not None]
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            return None
        source = (model.impl, fingerprint(weights))
        made = self._made.get(model)
        if made is None or made[0] != source:
            # Kept longer than this call: it must serve under autograd and without autocast too.
            with torch.inference_mode(False), torch.no_grad(), without_autocast(model.device):
                made = (source, self._build(model))
            self._made[model] = made
        return made[1]

    def _modules(self, model: SAM2Base) -> list[nn.Module] | None:
        """All modules that it replaces; None where one of them must run."""
        known = self._seen.get(model)
        if known is None or not _as_seen(model, self._parts, known):
            if not all(is_plain(model, part) for part in self._parts):
                return None
            roots = [model.get_submodule(part) for part in self._parts]
            known = [_Seen.of(module) for root in roots for module in root.modules()]
            self._seen[model] = known
        return [seen.module for seen in known]


class _Seen(NamedTuple):
    """A module as it was when it was plain."""

    module: nn.Module
    kind: type
    children: tuple[nn.Module | None, ...]

    @classmethod
    def of(cls, module: nn.Module) -> _Seen:
        return cls(module, type(module), tuple(module._modules.values()))


def _as_seen(model: SAM2Base, parts: Sequence[str], known: Sequence[_Seen]) -> bool:
    """Whether all is what it was; the parts themselves may be others now."""
    modules = {id(seen.module) for seen in known}
    return all(id(_find(model, part)) in modules for part in parts) and all(
        type(module) is kind
        and tuple(module._modules.values()) == children
        and _is_untouched(module)
        for module, kind, children in known
    )


def _find(model: nn.Module, name: str) -> nn.Module | None:
    found: nn.Module | None = model
    for step in name.split("."):
        found = None if found is None else found._modules.get(step)
    return found


def is_plain(model: nn.Module, name: str) -> bool:
    """Whether calling part `name` does no more than the package's own code with its weights.

    Not so where the model comes from elsewhere, where the part or one within was replaced, wrapped,
    hooked, compiled or given another `forward`, in training, or where gradients are wanted: then
    the modules themselves must run.
    """
    if not isinstance(model, SAM2Base):
        return False
    try:
        part = model.get_submodule(name)
    except AttributeError:
        return False
    if torch.is_grad_enabled() and any(p.requires_grad for p in part.parameters()):
        return False
    return all(
        model.built.get(path) == (type(module), tuple(module._modules)) and _is_untouched(module)
        for path, module in part.named_modules(prefix=name)
    )


def _is_untouched(module: nn.Module) -> bool:
    return (
        not module.training
        and "forward" not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and module._compiled_call_impl is None
    )
