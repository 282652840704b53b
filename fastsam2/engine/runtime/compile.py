"""Compilation with torch.compile."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch.fx.experimental import _config as shape_config

from fastsam2.engine.block_tables import BlockTables
from fastsam2.engine.memory_pool import Pages
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["Compiled", "compile_image_encoder"]

P = ParamSpec("P")
T = TypeVar("T")

#: More than is ever compiled: models, weights and sizes of images each count as one.
_MANY = 1024


class Compiled(Generic[P, T]):
    """A function of tensors compiled whole: once for any number of objects and of what they read,
    and once for each size of images.

    Args:
        function: such as a `TrackStep`.
        options: of `torch.compile`.
    """

    def __init__(self, function: Callable[P, T], **options: Any) -> None:
        _keep_on_disk()
        # What is not marked as dynamic is static. Marks that said so would stay on the tensors,
        # which other functions get too, and would be compiled for once more.
        self._run = torch.compile(function, fullgraph=True, dynamic=False, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        for argument in args:
            if isinstance(argument, Pages | BlockTables):
                _mark_dynamic(argument)
        with (
            # One object is a batch of one: sizes of 0 and 1 are sizes as any other.
            shape_config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
            # PyTorch counts what is compiled of all models of a program together.
            torch._dynamo.config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY),
        ):
            return self._run(*args, **kwargs)


def _keep_on_disk() -> None:
    """Where a restart of the machine does not delete it: PyTorch takes a temporary folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "fastsam2" / "compiled"))


#: Dimensions of the fields of these records that change from frame to frame, the first by default.
_GROWING = {"pos": (), "reads": (0, 1), "pointer_slots": (0, 1), "distances": (0, 1)}


def _mark_dynamic(record: Pages | BlockTables) -> None:
    for field in fields(record):
        for dim in _GROWING.get(field.name, (0,)):
            torch._dynamo.mark_dynamic(getattr(record, field.name), dim)


def compile_image_encoder(model: SAM2Base) -> None:
    """Compile the image encoder in place; the first frame then takes minutes, not milliseconds."""
    model.image_encoder.compile(dynamic=False)
