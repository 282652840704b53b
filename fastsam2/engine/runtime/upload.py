"""Uploads that do not block the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["to_device", "upload"]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return `x` on the device; from the host it is copied asynchronously."""
    if device.type == "cuda" and x.device.type == "cpu" and not x.is_pinned():
        # A copy from pageable memory blocks the host.
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def upload(device: torch.device, *tables: Sequence[object]) -> list[Tensor]:
    """Return tables as int32 or float32 tensors on the device, in one asynchronous copy."""
    found = [torch.tensor(table) for table in tables]
    found = [x.float() if x.is_floating_point() else x.int() for x in found]
    if device.type == "cpu":
        return found
    flat = torch.cat([table.flatten().view(torch.int32) for table in found])
    parts = to_device(flat, device).split([table.numel() for table in found])
    return [
        part.view(table.dtype).view(table.shape) for part, table in zip(parts, found, strict=True)
    ]
