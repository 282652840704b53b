"""Copies to the CPU that run concurrently with the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastsam2.engine.runtime.streams import record_event, side_stream
from fastsam2.types import FrameOutput

__all__ = ["HostCopy", "PendingOffload"]


class HostCopy:
    """Asynchronous copy of tensors to the CPU.

    Args:
        tensors: tensors of one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._done = None
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

    def finish(self) -> None:
        """Replace the device tensors by their copies, unless a client has replaced them."""
        for (output, name, tensor), copy in zip(self._places, self._copy.wait(), strict=True):
            if getattr(output, name) is tensor:
                setattr(output, name, copy)
