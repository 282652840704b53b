"""Traversal of tensors in nested dataclasses, tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "StaticInputs",
    "copy_tensors",
    "dynamic_dims",
    "map_tensors",
    "static_tensors",
    "tensors",
]

T = TypeVar("T")


class StaticInputs:
    """Base of records whose tensors keep their addresses from one call to the next."""


def dynamic_dims(record: object) -> Iterator[tuple[Tensor, int]]:
    """Yield the tensors of a record with the dimensions that its class lists as `DYNAMIC`."""
    for name, dims in getattr(record, "DYNAMIC", {}).items():
        for dim in dims:
            yield getattr(record, name), dim


def tensors(value: object) -> Iterator[Tensor]:
    """Return all tensors except those in `StaticInputs` records."""
    return (x for x, static in _leaves(value, False) if not static)


def static_tensors(value: object) -> Iterator[Tensor]:
    """Return the tensors in `StaticInputs` records."""
    return (x for x, static in _leaves(value, False) if static)


def _leaves(value: object, static: bool) -> Iterator[tuple[Tensor, bool]]:
    """Yield all tensors, each with True if it is in a `StaticInputs` record."""
    if isinstance(value, Tensor):
        yield value, static
    for part in _parts(value):
        yield from _leaves(part, static or isinstance(value, StaticInputs))


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """Apply `function` to all tensors except those in `StaticInputs` records."""
    out: Any = value
    if isinstance(value, Tensor):
        out = function(value)
    elif isinstance(value, StaticInputs):
        pass
    elif is_dataclass(value) and not isinstance(value, type):
        out = type(value)(*(map_tensors(part, function) for part in _parts(value)))
    elif isinstance(value, tuple | list):
        parts = [map_tensors(part, function) for part in value]
        out = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    elif isinstance(value, dict):
        out = {key: map_tensors(part, function) for key, part in value.items()}
    return out


def copy_tensors(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Copy each source into its target, in one launch for each dtype."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        of_dtype = groups.setdefault(target.dtype, ([], []))
        of_dtype[0].append(target)
        of_dtype[1].append(source)
    for group in groups.values():
        torch._foreach_copy_(*group)


def _parts(value: object) -> Iterator[object]:
    if is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield getattr(value, f.name)
    elif isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
