"""Streams and events of a device; no-ops on a CPU, which runs operations in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Event", "Stream", "current_device", "record_event", "side_stream"]


class Event(Protocol):
    """A point in the work queued on a stream."""

    def wait(self, used: Iterable[Tensor] = ()) -> None:
        """Make the current stream wait for the event.

        Args:
            used: tensors created before the event that the current stream will read.
        """

    def completed(self) -> bool:
        """True if the work before the event is done; does not block."""

    def synchronize(self) -> None:
        """Block the caller until the event has completed."""


class Stream(Protocol):
    """A queue of work that a device runs in order, concurrently with its other streams."""

    def enter(self) -> contextlib.AbstractContextManager[object]:
        """Return a context in which the caller's work is queued on this stream."""


class _CompletedEvent:
    """An event of a device that runs everything in order."""

    def wait(self, used: Iterable[Tensor] = ()) -> None:
        pass

    def completed(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class _CurrentStream:
    """The only stream of a device that runs everything in order."""

    def enter(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


class _CudaEvent:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.current_stream(device).record_event()

    def wait(self, used: Iterable[Tensor] = ()) -> None:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._event)
        for tensor in used:
            # The stream that made the tensor must not reuse its memory while this one reads it.
            tensor.record_stream(stream)

    def completed(self) -> bool:
        return self._event.query()

    def synchronize(self) -> None:
        self._event.synchronize()


class _CudaStream:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def enter(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)


def record_event(device: torch.device) -> Event:
    """Record an event on the current stream of `device`."""
    return _CudaEvent(device) if device.type == "cuda" else _CompletedEvent()


def current_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which `device` is the current CUDA device; a no-op for others."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@cache
def side_stream(device: torch.device, name: str) -> Stream:
    """Return the side stream of `device` with this name, created at first use."""
    return _CudaStream(device) if device.type == "cuda" else _CurrentStream()
