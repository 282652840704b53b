"""Launch parameters as data: what each op chooses by rule, and what was measured on a GPU.

`configs/<gpu>.json` maps an op to a list of `{"when": {...}, "launch": {...}}`; the first entry
whose `when` holds for the call overrides the op's own choice.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import torch

__all__ = ["SHARED_MEMORY", "gpu_slug", "measured"]

#: Largest shared memory of one program, in bytes, by compute capability.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}


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
    """Launch parameters measured for such a call of `op` on this GPU; empty if there are none."""
    if device.type != "cuda":
        return {}
    for entry in _file(gpu_slug(torch.cuda.get_device_name(device))).get(op, []):
        if all(call.get(key) == value for key, value in entry["when"].items()):
            launch: Mapping[str, Any] = entry["launch"]
            return launch
    return {}
