"""Work that a device does beside other work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Lane", "Mark", "lane", "mark", "on"]


class Mark(Protocol):
    """A point in the work of a lane."""

    def wait(self, used: Iterable[Tensor] = ()) -> None:
        """Whatever the caller has the device do from now on waits for it; `used` are the tensors
        from before the mark that it uses."""

    def synchronize(self) -> None:
        """Let the caller itself wait for it."""


class Lane(Protocol):
    """Work of a device, done in the order in which it was given, beside that of other lanes."""

    def enter(self) -> contextlib.AbstractContextManager[object]:
        """What the caller has the device do inside goes into this lane."""


class _Done:
    """A point that has been reached: where nothing runs beside."""

    def wait(self, used: Iterable[Tensor] = ()) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Here:
    """The only lane of a device that works while the caller waits."""

    def enter(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


class _Event:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.current_stream(device).record_event()

    def wait(self, used: Iterable[Tensor] = ()) -> None:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._event)
        for tensor in used:
            # Its memory must not go to the lane that made it while this one still reads it.
            tensor.record_stream(stream)

    def synchronize(self) -> None:
        self._event.synchronize()


class _Stream:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def enter(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)


def mark(device: torch.device) -> Mark:
    """The point after all that the caller has had the device do, in the lane that it is in."""
    return _Event(device) if device.type == "cuda" else _Done()


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, `device` is the one that is used where none is named."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@cache
def lane(device: torch.device, name: str) -> Lane:
    """The lane of this name; on a CPU all are the same."""
    return _Stream(device) if device.type == "cuda" else _Here()
