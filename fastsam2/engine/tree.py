"""Tensors within records, tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["Fixed", "fixed_tensors", "map_tensors", "tensors"]

T = TypeVar("T")


class Fixed:
    """Base of records whose tensors lie at the same place from one call to the next."""


def tensors(value: object) -> Iterator[Tensor]:
    """Those that may lie elsewhere at each call."""
    if isinstance(value, Tensor):
        yield value
    elif not isinstance(value, Fixed):
        for part in _parts(value):
            yield from tensors(part)


def fixed_tensors(value: object) -> Iterator[Tensor]:
    """Those of `Fixed` records."""
    for part in _parts(value):
        if isinstance(part, Tensor):
            if isinstance(value, Fixed):
                yield part
        else:
            yield from fixed_tensors(part)


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """The same with `function` of each tensor, but for those of `Fixed` records."""
    out: Any = value
    if isinstance(value, Tensor):
        out = function(value)
    elif isinstance(value, Fixed):
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
