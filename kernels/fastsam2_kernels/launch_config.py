"""Launch parameters as data: what each op chooses by rule, and what was measured on a GPU.

`configs/<gpu>.json` maps an op to a list of `{"when": {...}, "launch": {...}}`; the first entry
whose `when` holds for the call overrides the op's own choice.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = [
    "CAPABILITIES",
    "HALF",
    "SHARED_MEMORY",
    "TRITON_NAMES",
    "capability_of",
    "dot_precision",
    "family",
    "gpu_slug",
    "measured",
    "on_its_device",
    "processors",
]

P = ParamSpec("P")
T = TypeVar("T")

#: GPUs whose launches are checked ahead of time.
CAPABILITIES = (80, 86, 89, 90, 100)

#: Largest shared memory of one program, in bytes, by compute capability.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}

HALF = (torch.float16, torch.bfloat16)

#: What Triton calls the types that kernels take.
TRITON_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@functools.cache
def capability_of(device: torch.device) -> int:
    """Compute capability as 10 * major + minor; 90 in the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of the GPU; 1 in the interpreter."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def on_its_device(function: Callable[P, T]) -> Callable[P, T]:
    """`function` on the GPU of its first argument: Triton launches on the current one."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        x = args[0]
        if not isinstance(x, Tensor) or x.device.type != "cuda":
            return function(*args, **kwargs)
        with torch.cuda.device(x.device):
            return function(*args, **kwargs)

    return run


def family(capability: int) -> int:
    """80, 89, 90 or 100: a capability with the same shared memory and matrix instructions."""
    if capability in (80, 87):
        return 80
    if 90 <= capability < 100:
        return 90
    if 100 <= capability < 120:
        return 100
    return 89


def dot_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies.

    Three products of TF32 parts keep float32's accuracy and run on tensor cores.
    """
    return "tf32x3" if dtype == torch.float32 else "ieee"


def gpu_slug(name: str) -> str:
    """File name of a GPU's measurements: `NVIDIA H200` is `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@functools.cache
def _file(slug: str) -> Mapping[str, list[dict[str, Any]]]:
    path = resources.files("fastsam2_kernels") / "configs" / f"{slug}.json"
    found: Mapping[str, list[dict[str, Any]]] = (
        json.loads(path.read_text()) if path.is_file() else {}
    )
    return found


def measured(op: str, device: torch.device, **call: Any) -> Mapping[str, Any]:
    """Launch parameters measured for such a call of `op` on this GPU; empty if there are none.

    A dtype in `call` is named as in `torch`, such as `bfloat16`.
    """
    if device.type != "cuda":
        return {}
    call = {k: str(v).removeprefix("torch.") if k == "dtype" else v for k, v in call.items()}
    for entry in _file(gpu_slug(torch.cuda.get_device_name(device))).get(op, []):
        if all(call.get(key) == value for key, value in entry["when"].items()):
            launch: Mapping[str, Any] = entry["launch"]
            return launch
    return {}
