"""Fused replacements for parts of a model, used while those parts are as the package built them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.precision import autocast_dtype, without_autocast
from fastsam2.engine.runtime.runner import Runner
from fastsam2.modeling.cached_tensor import fingerprint
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.processes import renew_in_child

__all__ = ["FastPath"]

T = TypeVar("T")

_EAGER = Runner(Plan())
#: PyTorch's hooks of all modules.
_GLOBAL_HOOKS = [
    f"_global_{kind}_hooks" for kind in ("forward", "forward_pre", "backward", "backward_pre")
]
_PREFIX = "_fast_"  #: prefix of a model's attributes that hold its fused replacements


class FastPath(Generic[T]):
    """Builds a fused replacement for parts of a model; rebuilds it when weights, options or plan
    change.

    Under a caller's autocast it is built from a copy of the parts in the autocast dtype, so that a
    float32 model costs no more than one in half precision.

    Args:
        name: key under which it is stored on a model.
        build: builds it from a model and a runner; None if the model's configuration excludes it.
        parts: names of the submodules it replaces.
        methods: names of the methods it replaces.
        parameters: names of the model's own parameters it is built from.
        options: names of the attributes it is built from.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[SAM2Base, Runner], T | None],
        parts: Sequence[str],
        methods: Sequence[str],
        parameters: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self._name = _PREFIX + name
        self._build = build
        self._parts = parts
        self._methods = methods
        self._parameters = parameters
        self._options = options

    def __call__(self, model: nn.Module) -> T | None:
        """Return the fused replacement for this model, None if the model's own code must run.

        The model's own code runs if one of the parts was replaced, hooked, compiled, given another
        `forward` or is in training, if one of the methods was overridden, or if gradients are
        required.
        """
        if not isinstance(model, SAM2Base):
            return None
        cache: _Cache[T] = vars(model).setdefault(self._name, _Cache())
        modules = self._plain_modules(model, cache)
        if modules is None or not all(_is_own(model, name) for name in self._methods):
            return None
        owned = [model._parameters.get(name) for name in self._parameters]
        owned += [w for module in modules for w in module._parameters.values()]
        weights = [w for w in owned if w is not None]
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            return None
        dtype = autocast_dtype(model.device) or model.dtype
        runner: Runner = model.runner or _EAGER
        options = self.options(model)
        key = (runner, model.impl, options, fingerprint(weights))
        with cache.lock:
            built = cache.built.get(dtype)
            if built is None or built.key != key:
                # It outlives this call, and later calls may be in other modes.
                with torch.inference_mode(False), torch.no_grad(), without_autocast(model.device):
                    source = self._copy(model, dtype)
                    built = _Built(key, source, self._build(source, runner))
                current = {d: b for d, b in cache.built.items() if b.key == key}
                cache.built = {**current, dtype: built}
        _copy_options(model, built.source)
        return built.value

    def options(self, model: SAM2Base) -> tuple[object, ...]:
        """Values of the attributes that the replacement is built of."""
        return tuple([getattr(model, name) for name in self._options])

    def _plain_modules(self, model: SAM2Base, cache: _Cache[T]) -> list[nn.Module] | None:
        """Return all modules of the parts; None if one is not as the package built it."""
        if any(getattr(torch_module, name) for name in _GLOBAL_HOOKS):
            return None
        roots = [_find(model, part) for part in self._parts]
        if cache.roots != roots or not _is_untouched(cache.modules):
            cache.roots = roots
            cache.modules = _modules_as_built(model, self._parts, roots)
            if not _is_untouched(cache.modules):
                return None
        return [module for module, *_ in cache.modules]

    def _copy(self, model: SAM2Base, dtype: torch.dtype) -> SAM2Base:
        """Copy the model, so that a fused replacement does not keep the model itself alive.

        The copy shares the model's parts, or copies them if `dtype` differs. Buffers hold
        coordinates and stay float32.
        """
        twin = copy.copy(model)
        for name in [name for name in vars(twin) if name.startswith(_PREFIX)]:
            del vars(twin)[name]
        if dtype == model.dtype:
            return twin
        roots = {part.partition(".")[0] for part in self._parts}
        twin._modules = {k: copy.deepcopy(m) for k, m in model._modules.items() if k in roots}
        twin._parameters = {
            name: None if w is None else nn.Parameter(w.detach().to(dtype, copy=True), False)
            for name, w in model._parameters.items()
        }
        for weight in twin.parameters():
            weight.data = weight.data.to(dtype)
        return twin


class _Module(NamedTuple):
    """A module with its class and children at the time it was built."""

    module: nn.Module
    kind: type
    children: tuple[nn.Module | None, ...]


@dataclass(frozen=True)
class _Built(Generic[T]):
    key: object
    source: SAM2Base  #: a copy of the model, see `FastPath._copy`
    value: T | None


@dataclass(eq=False)
class _Cache(Generic[T]):
    """Fused replacements, one for each dtype that callers compute in, stored on their model; copies
    of the model start with an empty cache."""

    roots: list[nn.Module | None] = field(default_factory=list)
    modules: list[_Module] = field(default_factory=list)  #: of `roots`, if they are as built
    built: dict[torch.dtype, _Built[T]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        renew_in_child(self)

    def renew(self) -> None:
        """Replace the lock, in a forked process."""
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Cache[T]], tuple[()]]:
        return _Cache, ()


def _modules_as_built(
    model: SAM2Base, parts: Sequence[str], roots: Sequence[nn.Module | None]
) -> list[_Module]:
    """Return all modules of the parts; an empty list if a class or name is not as built."""
    found = []
    for part, root in zip(parts, roots, strict=True):
        if root is None:
            if part in model.built:
                return []
            continue  # this configuration has no such part
        for path, module in root.named_modules(prefix=part):
            if model.built.get(path) != (type(module), tuple(module._modules)):
                return []
            found.append(_Module(module, type(module), tuple(module._modules.values())))
    return found


def _is_untouched(modules: Sequence[_Module]) -> bool:
    """True if there are modules, all in eval mode, unchanged since built, and without hooks."""
    for module, kind, children in modules:
        if (
            module.training
            or module._forward_hooks
            or module._forward_pre_hooks
            or module._compiled_call_impl is not None
            or "forward" in module.__dict__
            or type(module) is not kind
            or tuple(module._modules.values()) != children
        ):
            return False
    return bool(modules)


def _find(model: nn.Module, name: str) -> nn.Module | None:
    found: nn.Module | None = model
    for step in name.split("."):
        found = None if found is None else found._modules.get(step)
    return found


def _is_own(model: SAM2Base, name: str) -> bool:
    """True if a method is the package's own, neither overridden nor replaced on the instance."""
    method = getattr(type(model), name, None)
    package = getattr(method, "__module__", "").partition(".")[0]
    return package == "fastsam2" and name not in vars(model)


def _copy_options(model: SAM2Base, twin: SAM2Base) -> None:
    """Copy the model's attributes, which may change between calls, to the copy of its parts."""
    own = ("_modules", "_parameters", "_buffers")
    for name, value in vars(model).items():
        if name not in own and not name.startswith(_PREFIX):
            vars(twin)[name] = value
