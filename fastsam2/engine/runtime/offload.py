"""Copies to the CPU that run concurrently with the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastsam2.engine.runtime.streams import Event, record_event, side_stream
from fastsam2.types import FrameOutput

__all__ = ["HostCopy", "PendingOffload"]


class HostCopy:
    """Asynchronous copy of tensors to the CPU.

    Args:
        tensors: tensors of one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._done: Event | None = None
        self._given = list(tensors)
        if all(_on_host(x) for x in self._given):
            return
        device = self._given[0].device
        begun = record_event(device)
        with side_stream(device, "host").enter():
            begun.wait(self._given)
            # One copy for each dtype.
            self._flat = {
                dtype: _pinned(torch.cat([x.flatten() for x in self._given if x.dtype == dtype]))
                for dtype in {x.dtype for x in self._given}
            }
            self._done = record_event(device)

    def completed(self) -> bool:
        """True if `wait` would not block."""
        return self._done is None or self._done.completed()

    def wait(self) -> list[Tensor]:
        """Wait for the copies and return them."""
        if self._done is None:
            return self._given
        self._done.synchronize()
        # Pinned memory is scarce: return it to the allocator.
        rest = {dtype: flat.clone() for dtype, flat in self._flat.items()}
        found = []
        for x in self._given:
            found.append(rest[x.dtype][: x.numel()].view(x.shape))
            rest[x.dtype] = rest[x.dtype][x.numel() :]
        return found


def _on_host(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _pinned(x: Tensor) -> Tensor:
    # Only copies into pinned memory are asynchronous.
    pinned = x.device.type == "cuda"
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=pinned).copy_(x, non_blocking=pinned)


class PendingOffload:
    """Asynchronous copy of output fields to the CPU; they keep device tensors until `finish`.

    Args:
        fields: outputs, each with the names of its fields to copy.
    """

    def __init__(self, fields: Iterable[tuple[FrameOutput, Sequence[str]]]) -> None:
        self._places = [
            (output, name, tensor)
            for output, names in fields
            for name in names
            if (tensor := getattr(output, name)) is not None and not _on_host(tensor)
        ]
        self._copy = HostCopy([tensor for _, _, tensor in self._places])

    def completed(self) -> bool:
        """True if `finish` would not block."""
        return self._copy.completed()

    def finish(self) -> None:
        """Replace the device tensors by their copies, unless a client has replaced them."""
        for (output, name, tensor), copy in zip(self._places, self._copy.wait(), strict=True):
            if getattr(output, name) is tensor:
                setattr(output, name, copy)
