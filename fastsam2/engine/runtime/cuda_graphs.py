"""CUDA graphs: functions of tensors recorded once and replayed, one launch instead of hundreds."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from fastsam2.engine.runtime.pytree import map_tensors, static_tensors, tensors
from fastsam2.engine.runtime.streams import Event, current_device, record_event

__all__ = ["CudaRecorder", "Graphed", "Recorder"]

P = ParamSpec("P")
T = TypeVar("T")

_LOG = logging.getLogger(__name__)
#: Recordings kept of a function; the least recently used are dropped.
_KEPT = 32
#: Held during recording, when no other recording may synchronize with the device.
_RECORDING = threading.Lock()


fallbacks = 0  #: functions of this process that could not be recorded, and run without a graph


def fall_back(error: RuntimeError) -> None:
    """Count and log a function that cannot be recorded; tests raise the error instead."""
    global fallbacks
    fallbacks += 1
    _LOG.warning("runs without CUDA graphs: %s", str(error).splitlines()[0])


class Recorder(Protocol):
    """Records the device work of a function."""

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Record `run`; returns a function that replays it, and its output, which each replay
        overwrites.

        Raises:
            RuntimeError: `run` does work that cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs, which share one memory pool and so must run one after another."""

    def __init__(self) -> None:
        self._memory: Any = None

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            # Warm-up: the first calls compile, tune and allocate, which must not be recorded.
            for _ in range(2):
                run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate during the recording.
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            out = run()
        self._memory = graph.pool()
        return graph.replay, out


class _Recording(Generic[T]):
    """A recorded function; it owns a copy of each input whose address changes between calls."""

    def __init__(self, function: Callable[..., T], args: tuple[Any, ...], by: Recorder) -> None:
        # Inputs are written in later calls, which need not be in inference mode.
        with torch.inference_mode(False):
            own = map_tensors(args, lambda x: torch.empty_like(x).copy_(x))
        self._inputs = list(tensors(own))
        # Weak references, so that unused pages can be freed.
        self._fixed = [weakref.ref(x) for x in static_tensors(args)]
        with _RECORDING:
            self._replay, self._out = by.record(lambda: function(*own))

    def fits(self, args: tuple[Any, ...]) -> bool:
        """True if the static inputs are the recorded ones."""
        return all(known() is x for known, x in zip(self._fixed, static_tensors(args), strict=True))

    def alive(self) -> bool:
        return all(known() is not None for known in self._fixed)

    def __call__(self, args: tuple[Any, ...]) -> T:
        for own, given in zip(self._inputs, tensors(args), strict=True):
            own.copy_(given)
        self._replay()
        return map_tensors(self._out, torch.clone)


class Graphed(Generic[P, T]):
    """A function of tensors, recorded for each shape of them.

    Arguments are copied into the recording's inputs, except those in `StaticInputs` records;
    results are copied out, and belong to the caller.

    Args:
        function: device work only, independent of the tensors' values.
        recorder: records it.
    """

    def __init__(self, function: Callable[P, T], recorder: Recorder) -> None:
        self._function: Callable[..., T] = function
        self._recorder = recorder
        self._recordings: OrderedDict[Hashable, _Recording[T]] = OrderedDict()
        self._lock = threading.Lock()
        self._last: Event | None = None  # after the last use of the recordings' tensors
        self._fails = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the function's output; all tensors must be on one device."""
        device = next(tensors(args)).device
        with self._lock, current_device(device):
            if self._fails:
                return self._function(*args, **kwargs)
            if self._last is not None:
                self._last.wait()
            out = self._run(args)
            self._last = record_event(device)
            return out

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self._recordings)

    def _run(self, args: tuple[Any, ...]) -> T:
        key = (*map(_form, tensors(args)), *map(id, static_tensors(args)))
        recording = self._recordings.get(key)
        if recording is None or not recording.fits(args):
            self._forget()
            try:
                recording = _Recording(self._function, args, self._recorder)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._fails = True
                fall_back(error)
                return self._function(*args)
            self._recordings[key] = recording
        self._recordings.move_to_end(key)
        return recording(args)

    def _forget(self) -> None:
        """Drop recordings whose static inputs are gone, and the least recently used."""
        for key in [k for k, r in self._recordings.items() if not r.alive()]:
            del self._recordings[key]
        while len(self._recordings) >= _KEPT:
            self._recordings.popitem(last=False)


def _form(x: Tensor) -> Hashable:
    return x.shape, x.dtype, x.device
