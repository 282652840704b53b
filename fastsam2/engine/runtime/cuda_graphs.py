"""CUDA graphs: functions of tensors recorded once and replayed, one launch instead of hundreds."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from fastsam2.engine.runtime.pytree import copy_tensors, map_tensors, static_tensors, tensors
from fastsam2.engine.runtime.streams import Event, current_device, record_event, side_stream

__all__ = ["DEVICE_LOCK", "CudaRecorder", "Graphed", "Recorder", "replay_only"]

P = ParamSpec("P")
T = TypeVar("T")

_LOG = logging.getLogger(__name__)
#: Recordings kept of a function; the least recently used are dropped.
_KEPT = 32
#: Calls during which a recording is kept although another one needs its place. A program that uses
#: more than `_KEPT` in turns would otherwise record at each call.
_IDLE = 8 * _KEPT
#: Held during recording, and during other work that may synchronize with the device, which would
#: make a recording fail.
DEVICE_LOCK = threading.Lock()


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
    """Records CUDA graphs on one device; they share a memory pool, so must run one after another.

    Each recorder captures on a stream of its own: cuBLAS keeps a workspace for each stream, and
    graphs that run concurrently must not share one.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
        here = torch.cuda.current_stream()
        self._warm_up(run, here.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        # The pool lives as long as one of its graphs.
        alive = list(self._graphs)
        try:
            with (
                # A failed capture does not restore the current stream.
                torch.cuda.stream(here),
                torch.cuda.graph(
                    graph,
                    pool=alive[0].pool() if alive else None,
                    stream=self._stream,
                    # Other threads may allocate during the capture.
                    capture_error_mode="thread_local",
                ),
            ):
                out = run()
        finally:
            # The workspace that the capture allocated lies in the pool, and goes with its graphs.
            torch._C._cuda_clearCublasWorkspaces()
        self._graphs.add(graph)
        return graph.replay, out

    @staticmethod
    def _warm_up(run: Callable[[], object], device: torch.device) -> None:
        """Run twice: the first calls compile, tune and allocate, which must not be recorded."""
        begun = record_event(device)
        with side_stream(device, "warm-up").enter():
            begun.wait()
            for _ in range(2):
                run()
            done = record_event(device)
        done.wait()


@dataclass
class ReplayOnly:
    """State of a thread that records no graphs."""

    missed: bool = False  #: a function ran that another thread would have recorded


_local = threading.local()


@contextlib.contextmanager
def replay_only() -> Iterator[ReplayOnly]:
    """Return a context in which this thread replays graphs and records none: a device must not be
    synchronized by other threads during a recording."""
    _local.replay_only = found = ReplayOnly()
    try:
        yield found
    finally:
        _local.replay_only = None


class _Recording(Generic[T]):
    """A recorded function; it owns a copy of each input whose address changes between calls."""

    def __init__(self, function: Callable[..., T], args: tuple[Any, ...], by: Recorder) -> None:
        # Inputs are written in later calls, which need not be in inference mode.
        with torch.inference_mode(False):
            own = map_tensors(args, lambda x: torch.empty_like(x).copy_(x))
        self._inputs = list(tensors(own))
        # Weak references, so that unused pages can be freed.
        self._fixed = [weakref.ref(x) for x in static_tensors(args)]
        self.last_call = 0  #: number of the last call of the function that replayed it
        self._replay, self._out = by.record(lambda: function(*own))

    def fits(self, args: tuple[Any, ...]) -> bool:
        """True if the static inputs are the recorded ones."""
        return all(known() is x for known, x in zip(self._fixed, static_tensors(args), strict=True))

    def alive(self) -> bool:
        return all(known() is not None for known in self._fixed)

    def __call__(self, args: tuple[Any, ...]) -> T:
        copy_tensors(self._inputs, tensors(args))
        self._replay()
        # Inference tensors have no version counter, by which a client's edits are detected.
        with torch.inference_mode(False):
            out = map_tensors(self._out, torch.empty_like)
        copy_tensors(tensors(out), tensors(self._out))
        return out


class Graphed(Generic[P, T]):
    """A function of tensors, recorded for each shape of them.

    Arguments are copied into the recording's inputs, except those in `StaticInputs` records;
    results are copied out, and belong to the caller.

    Args:
        function: device work only, independent of the tensors' values.
        recorder: records it.
        after: calls with tensors of the same shapes that run without a graph before one is
            recorded. If it is not 0, a recording that does not fit the memory is done without.
    """

    def __init__(self, function: Callable[P, T], recorder: Recorder, after: int = 0) -> None:
        self._function: Callable[..., T] = function
        self._recorder = recorder
        self._after = after
        self._unrecorded: OrderedDict[Hashable, int] = OrderedDict()  # calls by shapes
        self._recordings: OrderedDict[Hashable, _Recording[T]] = OrderedDict()
        self._lock = threading.Lock()
        self._last: Event | None = None  # after the last use of the recordings' tensors
        self._calls = 0
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
        self._calls += 1
        key = (*map(_form, tensors(args)), *map(id, static_tensors(args)))
        recording = self._recordings.get(key)
        if recording is None or not recording.fits(args):
            if not (self._is_steady(key) and self._make_room()):
                return self._function(*args)
            only: ReplayOnly | None = getattr(_local, "replay_only", None)
            if only is not None:
                only.missed = True
                return self._function(*args)
            if not DEVICE_LOCK.acquire(blocking=False):
                return self._function(*args)
            if self._after:
                _announce()
            try:
                recording = _Recording(self._function, args, self._recorder)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) and not self._after:
                    raise
                self._fails = True
                fall_back(error)
                return self._function(*args)
            finally:
                DEVICE_LOCK.release()
            self._recordings[key] = recording
        self._recordings.move_to_end(key)
        recording.last_call = self._calls
        return recording(args)

    def _is_steady(self, key: Hashable) -> bool:
        """Count a call without a recording; True once there were enough with this key."""
        calls = self._unrecorded.pop(key, 0) + 1
        self._unrecorded[key] = calls
        if len(self._unrecorded) > _KEPT:
            self._unrecorded.popitem(last=False)
        return calls > self._after

    def _make_room(self) -> bool:
        """Drop recordings whose static inputs are gone, and an idle one if there are too many;
        False if none is idle."""
        for key in [k for k, r in self._recordings.items() if not r.alive()]:
            del self._recordings[key]
        if len(self._recordings) < _KEPT:
            return True
        oldest = next(iter(self._recordings))
        if self._calls - self._recordings[oldest].last_call < _IDLE:
            return False
        del self._recordings[oldest]
        return True


@cache
def _announce() -> None:
    _LOG.info('recording CUDA graphs of steady frames; plan="eager" turns that off')


def _form(x: Tensor) -> Hashable:
    return x.shape, x.dtype, x.device
