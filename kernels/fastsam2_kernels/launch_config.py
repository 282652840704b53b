"""GPU properties, and launch parameters that were measured on a GPU.

`configs/<gpu>.json` maps an op to a list of `{"when": {...}, "launch": {...}}`; the first entry
whose `when` matches the call overrides the rule of the op.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, ParamSpec, TypeVar

import torch

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
    "processors",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Compute capabilities that kernels are compiled for ahead of time.
CAPABILITIES = (80, 86, 89, 90, 100)

#: Maximum shared memory of one program, in bytes, by compute capability.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}

HALF = (torch.float16, torch.bfloat16)

#: Triton names of the dtypes that kernels compute in.
TRITON_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@functools.cache
def capability_of(device: torch.device) -> int:
    """Return the compute capability as 10 * major + minor; 90 in the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def processors(device: torch.device) -> int:
    """Return the number of streaming multiprocessors; 1 in the interpreter."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def family(capability: int) -> int:
    """Return 80, 89, 90 or 100: the capability with like shared memory and matrix instructions."""
    if capability in (80, 87):
        return 80
    if 90 <= capability < 100:
        return 90
    if 100 <= capability < 120:
        return 100
    return 89


def dot_precision(dtype: torch.dtype) -> str:
    """Return the `input_precision` of `tl.dot`.

    In float32, three TF32 products keep the accuracy and run on tensor cores.
    """
    return "tf32x3" if dtype == torch.float32 else "ieee"


def gpu_slug(name: str) -> str:
    """Return the file name of a GPU's measurements: `nvidia-h200` for `NVIDIA H200`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@functools.cache
def _file(slug: str) -> Mapping[str, list[dict[str, Any]]]:
    path = resources.files("fastsam2_kernels") / "configs" / f"{slug}.json"
    found: Mapping[str, list[dict[str, Any]]] = (
        json.loads(path.read_text()) if path.is_file() else {}
    )
    return found


def measured(op: str, device: torch.device, **call: Any) -> Mapping[str, Any]:
    """Return launch parameters measured for a call of `op` on this GPU; empty if there are none.

    Args:
        call: properties that a `when` may name; dtypes are named as in `torch`: `bfloat16`.
    """
    if device.type != "cuda":
        return {}
    call = {k: str(v).removeprefix("torch.") if k == "dtype" else v for k, v in call.items()}
    for entry in _file(gpu_slug(torch.cuda.get_device_name(device))).get(op, []):
        if all(call.get(key) == value for key, value in entry["when"].items()):
            launch: Mapping[str, Any] = entry["launch"]
            return launch
    return {}
