"""Copies to the CPU that run concurrently with the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsam2.engine.runtime.streams import Event, record_event, side_stream
from fastsam2.types import FrameOutput, StoredMemory

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
            # One copy of the bytes of all.
            self._flat = _pinned(torch.cat([_bytes(x) for x in self._given]))
            self._done = record_event(device)

    def completed(self) -> bool:
        """True if `wait` would not block."""
        return self._done is None or self._done.completed()

    def wait(self) -> list[Tensor]:
        """Wait for the copies and return them."""
        if self._done is None:
            return self._given
        self._done.synchronize()
        parts = self._flat.split([x.nbytes for x in self._given])
        # Pinned memory is scarce: return it to the allocator. One clone for each, so that each can
        # be freed alone.
        copies = [part.clone() for part in parts]
        return [
            copy.view(x.dtype).view(x.shape) for copy, x in zip(copies, self._given, strict=True)
        ]


def _on_host(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(-1).view(torch.uint8)


def _pinned(x: Tensor) -> Tensor:
    # Only copies into pinned memory are asynchronous.
    pinned = x.device.type == "cuda"
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=pinned).copy_(x, non_blocking=pinned)


class _Moving(NamedTuple):
    """A field of an output that is being copied."""

    output: FrameOutput
    name: str
    tensor: Tensor
    slot: StoredMemory | None = None  #: of memory, which is copied as it is stored

    def is_current(self) -> bool:
        """False if a client has replaced the field."""
        if self.slot is not None:
            return self.output.slot is self.slot
        return _field(self.output, self.name) is self.tensor


class PendingOffload:
    """Asynchronous copy of output fields to the CPU; they keep device tensors until `finish`.

    Memory leaves its slot, on a CPU at once.

    Args:
        fields: outputs, each with the names of its fields to copy.
    """

    def __init__(self, fields: Iterable[tuple[FrameOutput, Sequence[str]]]) -> None:
        self._moving = [
            moving for output, names in fields for name in names for moving in _moving(output, name)
        ]
        self._copy = HostCopy([moving.tensor for moving in self._moving])

    def completed(self) -> bool:
        """True if `finish` would not block."""
        return self._copy.completed()

    def finish(self) -> None:
        """Replace the device tensors by their copies, unless a client has replaced them."""
        for moving, copy in zip(self._moving, self._copy.wait(), strict=True):
            if moving.is_current():
                found = copy if moving.slot is None else moving.slot.from_row(copy)
                setattr(moving.output, moving.name, found)


def _field(output: FrameOutput, name: str) -> Tensor | None:
    """Return a field; None if a client has deleted it."""
    return output.predicted_iou if name == "predicted_iou" else output.get(name)


def _moving(output: FrameOutput, name: str) -> Iterator[_Moving]:
    """Yield the field if it is on a device."""
    slot = output.slot if name == "maskmem_features" else None
    if slot is not None and _on_host(slot.row):
        output.leave_slot()
        return
    tensor = _field(output, name) if slot is None else slot.row
    if tensor is not None and not _on_host(tensor):
        yield _Moving(output, name, tensor, slot)
