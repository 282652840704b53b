"""Tensors within records, tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["StaticInputs", "static_tensors", "map_tensors", "tensors"]

T = TypeVar("T")


class StaticInputs:
    """Base of records whose tensors lie at the same place from one call to the next."""


def tensors(value: object) -> Iterator[Tensor]:
    """Those that may lie elsewhere at each call."""
    return (x for x, fixed in _leaves(value, False) if not fixed)


def static_tensors(value: object) -> Iterator[Tensor]:
    """Those of `StaticInputs` records."""
    return (x for x, fixed in _leaves(value, False) if fixed)


def _leaves(value: object, fixed: bool) -> Iterator[tuple[Tensor, bool]]:
    """All tensors, and whether each is within a `StaticInputs` record."""
    if isinstance(value, Tensor):
        yield value, fixed
    for part in _parts(value):
        yield from _leaves(part, fixed or isinstance(value, StaticInputs))


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """The same with `function` of each tensor, but for those of `StaticInputs` records."""
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


def _parts(value: object) -> Iterator[object]:
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield getattr(value, field.name)
    elif isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
