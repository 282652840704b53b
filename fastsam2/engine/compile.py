"""Compilation of the model's parts with torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch.fx.experimental import _config as shape_config

from fastsam2.engine.read_tables import ReadTables
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["Compiled", "CompiledFunctions", "compile_image_encoder", "maybe_compiled"]

P = ParamSpec("P")
T = TypeVar("T")


class Compiled(Generic[P, T]):
    """A function of tensors compiled whole, once for any number of objects and of what they read.

    Args:
        function: such as a `TrackStep`.
        options: of `torch.compile`.
    """

    def __init__(self, function: Callable[P, T], **options: Any) -> None:
        self._run = torch.compile(function, fullgraph=True, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        for argument in args:
            if isinstance(argument, ReadTables):
                _mark_dynamic(argument)
        # One object is a batch of one: sizes of 0 and 1 are sizes as any other.
        with shape_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return self._run(*args, **kwargs)


#: Dimensions of the fields of `ReadTables` that change from frame to frame.
_GROWING = {"reads": (0, 1), "pointers": (0, 1), "pointer_pos": (0, 1)}


def _mark_dynamic(tables: ReadTables) -> None:
    for field in fields(tables):
        if field.name != "pos":
            for dim in _GROWING.get(field.name, (0,)):
                torch._dynamo.mark_dynamic(getattr(tables, field.name), dim)


class CompiledFunctions:
    """What is compiled of one model: each function once, and anew when its parts change.

    A copy of the model begins without any.

    Args:
        options: of `torch.compile`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._made: dict[str, tuple[tuple[object, ...], Compiled[..., Any]]] = {}

    def __call__(
        self, name: str, function: Callable[P, T], parts: tuple[object, ...]
    ) -> Callable[P, T]:
        """`function`, compiled, which does the same as long as its parts are the same objects."""
        made = self._made.get(name)
        if made is None or any(a is not b for a, b in zip(made[0], parts, strict=True)):
            made = self._made[name] = parts, Compiled(function, **self.options)
        return made[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CompiledFunctions, **self.options), ()


def maybe_compiled(
    model: SAM2Base, name: str, function: Callable[P, T], parts: tuple[object, ...]
) -> Callable[P, T]:
    """`function`, compiled if the model is to run so; see `CompiledFunctions`."""
    compiled: CompiledFunctions | None = getattr(model, "compiled", None)
    return function if compiled is None else compiled(name, function, parts)


def compile_image_encoder(model: SAM2Base) -> None:
    """Compile the image encoder in place; the first frame then takes minutes, not milliseconds."""
    model.image_encoder.compile(dynamic=False)
