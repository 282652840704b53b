"""Autocast of the caller."""

from __future__ import annotations

import contextlib

import torch

__all__ = ["autocast_dtype", "without_autocast"]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of the autocast enabled for `device`, None without one."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context that disables the caller's autocast; kernels take one dtype."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
