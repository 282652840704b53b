"""Upload of small tables of numbers to the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["upload"]


def upload(device: torch.device, *tables: Sequence[object]) -> list[Tensor]:
    """Return tables as int32 or float32 tensors on the device, in one asynchronous copy."""
    found = [torch.tensor(table) for table in tables]
    found = [x.float() if x.is_floating_point() else x.int() for x in found]
    if device.type == "cpu":
        return found
    flat = torch.cat([table.flatten().view(torch.int32) for table in found])
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = flat.to(device, non_blocking=True).split([table.numel() for table in found])
    return [
        part.view(table.dtype).view(table.shape) for part, table in zip(parts, found, strict=True)
    ]
