"""In which precision the engine computes."""

from __future__ import annotations

import contextlib

import torch

__all__ = ["without_autocast"]


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which the caller's autocast does not hold: the kernels take one dtype."""
    if not _has_autocast(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


# Before 2.13 torch.compile cannot trace the builtin behind it.
@torch.compiler.assume_constant_result
def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)
