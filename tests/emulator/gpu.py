"""An emulated GPU on which `impl="triton"` runs the kernels of CPU tensors."""

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
import torch

import fastsam2_kernels
from fastsam2_kernels import dispatch, launch_config
from tests.emulator.driver import Driver, active

__all__ = ["OPS", "RACING_ARGUMENTS", "emulated", "forced"]

OPS = [folder.name for folder in pkgutil.iter_modules(fastsam2_kernels.__path__) if folder.ispkg]

_PROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132}

#: Races between programs that kernels allow, with the reason why they are harmless.
RACING_ARGUMENTS = {
    "join_kernel": {
        "p_parent": "a walk may see an old parent, which is connected to the pixel too; parents "
        "change by atomics only, whose results show whether a root still is one",
    },
    "settle_kernel": {
        "p_parent": "a parent is replaced by its root while other programs walk: both lead there",
    },
    "paint_kernel": {
        "p_areas": "areas are read at roots only, where the same value is written again",
    },
}


@dataclass(frozen=True)
class _Device:
    """Stand-in for a `torch.device`, for the functions that choose launch parameters."""

    capability: int
    type: str = "cuda"


@contextmanager
def emulated(capability: int) -> Iterator[Driver]:
    """Run kernels as on a GPU of `capability`; memory from `torch.empty` is NaN.

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
        launch_config.processors: lambda _: _PROCESSORS[capability],
        launch_config.measured: lambda *_, **__: {},
    }
    for op in OPS:
        for function in _choosers(op):
            replacements[function] = _on(device, function)
    with pytest.MonkeyPatch.context() as patch, active(Driver(capability, RACING_ARGUMENTS)) as gpu:
        for module in _modules():
            _replace(patch, module, replacements)
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield gpu
        finally:
            torch.use_deterministic_algorithms(deterministic)


@contextmanager
def forced(op: str, launch: Any, splits: int | None = None) -> Iterator[None]:
    """Launch the kernels of `op` with the parameters `launch`, and attention with `splits`."""
    kernel = importlib.import_module(f"fastsam2_kernels.{op}.kernel")
    with pytest.MonkeyPatch.context() as patch:
        for function in _choosers(op):
            if hasattr(kernel, function.__name__):
                patch.setattr(kernel, function.__name__, lambda *_, **__: launch)
        if splits is not None:
            patch.setattr(kernel, "choose_splits", lambda *_: splits)
        yield


def _modules() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith("fastsam2_kernels.")]


def _choosers(op: str) -> list[Callable[..., Any]]:
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
