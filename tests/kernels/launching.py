"""Launch parameters of a GPU that is not there."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

import fastsam2_kernels
from fastsam2_kernels import dispatch, launch_config

__all__ = ["OPS", "choosers", "launching_for"]

OPS = [folder.name for folder in pkgutil.iter_modules(fastsam2_kernels.__path__) if folder.ispkg]


@dataclass(frozen=True)
class _Device:
    """Stand-in for a `torch.device`, for the functions that choose launch parameters."""

    capability: int
    type: str = "cuda"


@contextmanager
def launching_for(capability: int, processors: int) -> Iterator[None]:
    """Make `impl="triton"` launch kernels of any tensors as on a GPU of `capability` with so many
    multiprocessors.

    Raises:
        RuntimeError: kernels are interpreted in this process.
    """
    if dispatch.interpreting():
        raise RuntimeError("kernels are interpreted: start the process with TRITON_INTERPRET=0")
    for op in OPS:
        importlib.import_module(f"fastsam2_kernels.{op}.kernel")
    device = _Device(capability)
    replacements: dict[Any, Any] = {
        dispatch.on_gpu: lambda _: True,
        launch_config.capability_of: lambda _: capability,
        launch_config.processors: lambda _: processors,
        launch_config.measured: lambda *_, **__: {},
    }
    for op in OPS:
        for function in choosers(op):
            replacements[function] = _on(device, function)
    with pytest.MonkeyPatch.context() as patch:
        for module in _modules():
            _replace(patch, module, replacements)
        yield


def _modules() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith("fastsam2_kernels.")]


def choosers(op: str) -> list[Callable[..., Any]]:
    """Return the functions of an op that choose launch parameters for a device."""
    tuning = importlib.import_module(f"fastsam2_kernels.{op}.tuning")
    functions = [x for name in tuning.__all__ if inspect.isroutine(x := getattr(tuning, name))]
    return [x for x in functions if "device" in inspect.signature(x).parameters]


def _on(device: _Device, function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["device"] = device
        return function(*bound.args, **bound.kwargs)

    return call


def _replace(patch: pytest.MonkeyPatch, module: ModuleType, replacements: dict[Any, Any]) -> None:
    for name, value in list(vars(module).items()):
        if callable(value) and value.__hash__ is not None and value in replacements:
            patch.setattr(module, name, replacements[value])
