"""Pretended CUDA devices: tensors hold CPU data, but say that they are on `cuda:0` or `cuda:1`.

Every operation on them is logged with what it would do on a GPU: launch a kernel, copy to or from
the host, or make the host wait.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastsam2.engine.runtime import streams
from fastsam2.engine.runtime.pytree import tensors
from fastsam2_kernels import launch_config

__all__ = ["CUDA", "Event", "PretendedCuda"]

T = TypeVar("T")

CUDA = torch.device("cuda", 0)

_VIEWS = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal"),
    *("expand", "lift_fresh", "narrow", "permute", "reshape", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
}
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
#: Operations whose result or its shape depends on values, which the host must wait for.
_WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Event(NamedTuple):
    """An operation as the device would see it."""

    kind: str  #: launch, upload, download, wait, replay, mix
    name: str
    where: str  #: lines of the package that caused it, innermost first
    functions: frozenset[str]  #: names of the package's functions that were running

    def __str__(self) -> str:
        return f"{self.kind} {self.name} at {self.where}"


class _Tensor(torch.Tensor):
    """A tensor on a pretended device."""

    data_on_host: Tensor
    on: torch.device

    @staticmethod
    def __new__(cls: type[_Tensor], data: Tensor, device: torch.device) -> _Tensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            layout=data.layout,
            device="meta",
            requires_grad=False,
        )
        made.data_on_host = data
        made.on = device if device.index is not None else torch.device("cuda", current_device())
        found: _Tensor = made
        return found

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.on

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def data_ptr(self) -> int:
        return self.data_on_host.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert _active is not None
        return _active.run(func, args, kwargs or {})


_active: PretendedCuda | None = None
_local = threading.local()


def current_device() -> int:
    index: int = getattr(_local, "device", 0)
    return index


@contextlib.contextmanager
def _device(device: Any) -> Iterator[None]:
    before, _local.device = current_device(), torch.device(device).index or 0
    try:
        yield
    finally:
        _local.device = before


class _Mode(TorchDispatchMode):
    """Sees the operations that create tensors, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert _active is not None
        return _active.run(func, args, kwargs or {})


class _DeviceEvent:
    """Completes when the host asks for it a second time."""

    asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 1

    def synchronize(self) -> None:
        if self.asked < 2:
            _wait("event")


@dataclass
class _Stream:
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.device is None:
            self.device = torch.device("cuda", current_device())

    def record_event(self) -> Any:
        return _DeviceEvent()

    def wait_event(self, event: Any) -> None:
        pass


def _wait(name: str) -> None:
    assert _active is not None
    _active.log("wait", name)


class PretendedCuda:
    """Log of what a device would have done; see the module."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.recorded_on: list[int] = []  # current device of each recording
        self._thread = threading.local()
        self._pinned: dict[int, Tensor] = {}

    # Running

    def log(self, kind: str, name: str) -> None:
        if getattr(self._thread, "replaying", False):
            return
        if getattr(self._thread, "capturing", False):
            kind = "captured" if kind == "launch" else f"{kind} in a capture"
        self.events.append(Event(kind, name, *_where()))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation on the data of its arguments, and log it."""
        name = func._schema.name.rpartition("::")[2]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_device = [x for x in given if isinstance(x, _Tensor)]
        target = kwargs.get("device")
        to_device = target is not None and torch.device(target).type == "cuda"
        to_host = target is not None and torch.device(target).type == "cpu"
        pinned = kwargs.pop("pin_memory", None)
        if target is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if name == "record_stream":
            return None
        if name in ("pin_memory", "_pin_memory"):
            return self.pin(args[0])
        if name == "is_pinned":
            return self.is_pinned(args[0])
        kind = self._kind(name, args, kwargs, given, on_device, to_device, to_host)
        if kind is not None:
            self.log(kind, name)
        place = torch.device(target) if to_device else on_device[0].on if on_device else CUDA
        wrapped = {id(x.data_on_host): x for x in on_device}
        host = tree_map(lambda x: x.data_on_host if isinstance(x, _Tensor) else x, (args, kwargs))
        out = func(*host[0], **host[1])
        result_on_device = to_device or (bool(on_device) and not to_host)
        if name == "copy_":
            return args[0]

        def wrap(x: Any) -> Any:
            if not isinstance(x, Tensor) or isinstance(x, _Tensor):
                return x
            if not result_on_device:
                return self.pin(x, copy=False) if pinned else x
            return wrapped[id(x)] if id(x) in wrapped else _Tensor(x, place)

        return tree_map(wrap, out)

    def _kind(
        self,
        name: str,
        args: Any,
        kwargs: dict[str, Any],
        given: list[Tensor],
        on_device: list[_Tensor],
        to_device: bool,
        to_host: bool,
    ) -> str | None:
        """Kind of the event; None for work on the host alone, views and allocations."""
        if name == "_to_copy" and on_device and to_host:
            return "blocking download"
        if name == "_to_copy" and to_device and not on_device:
            return self._upload(args[0], kwargs.get("non_blocking", False))
        if name == "copy_" and len({isinstance(x, _Tensor) for x in given}) == 2:
            asynchronous = (len(args) > 2 and args[2]) or kwargs.get("non_blocking", False)
            if isinstance(args[0], _Tensor):
                return self._upload(args[1], asynchronous)
            blocking = not (asynchronous and self.is_pinned(args[0]))
            return "blocking download" if blocking else "download"
        if not on_device and not to_device:
            return None
        if len({x.on for x in on_device}) > 1:
            return "mix"
        if name in _WAITS or (name in _INDEXING and _by_mask(args[1])):
            return "wait"
        if any(not isinstance(x, _Tensor) and x.dim() for x in given):
            return "mix"
        if name in _VIEWS or name in _ALLOCATIONS:
            return None
        return "launch"

    def _upload(self, source: Tensor, asynchronous: bool) -> str:
        return "upload" if asynchronous and self.is_pinned(source) else "blocking upload"

    def pin(self, x: Tensor, copy: bool = True) -> Tensor:
        found = x.clone() if copy else x
        self._pinned[found.untyped_storage().data_ptr()] = found
        return found

    def is_pinned(self, x: Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self._pinned

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        found, self.events = self.events, []
        return found

    # Recording

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Record a graph: replay computes again, as one launch."""
        self.recorded_on.append(current_device())
        self._thread.capturing = True
        try:
            out = run()
        finally:
            self._thread.capturing = False

        def replay() -> None:
            self.events.append(Event("replay", "graph", *_where()))
            self._thread.replaying = True
            try:
                again = run()
            finally:
                self._thread.replaying = False
            for place, value in zip(tensors(out), tensors(again), strict=True):
                _data(place).copy_(_data(value))

        return replay, out

    # Installation

    @contextlib.contextmanager
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuda]:
        global _active
        for name, value in {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_name": lambda device=None: "NVIDIA H100 80GB HBM3",
            "get_device_properties": lambda device=None: SimpleNamespace(multi_processor_count=132),
            "current_stream": _Stream,
            "Stream": _Stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "device": _device,
            "current_device": current_device,
            "synchronize": lambda *device: _wait("synchronize"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        # Wrappers of inference tensors cannot be indexed.
        monkeypatch.setattr(torch.inference_mode, "__enter__", _enter_no_grad)
        monkeypatch.setattr(torch.inference_mode, "__exit__", _leave_no_grad)
        real_to, real_pin = torch.Tensor.to, torch.Tensor.pin_memory
        real_attention = torch.nn.functional.scaled_dot_product_attention

        def attention(*args: Any, **kwargs: Any) -> Tensor:
            """Without a GPU PyTorch would take the attention apart."""
            if not isinstance(args[0], _Tensor):
                return real_attention(*args, **kwargs)
            self.log("launch", "scaled_dot_product_attention")
            return _Tensor(real_attention(*map(_data, args), **kwargs), args[0].on)

        def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            device, dtype, asynchronous, _ = torch._C._nn._parse_to(*args, **kwargs)
            if isinstance(x, _Tensor) and (
                device is None or device in (x.on, torch.device("cuda"))
            ):
                return x if dtype in (None, x.dtype) else real_to(x, dtype)
            if device is None or device.type != "cuda":
                return real_to(x, *args, **kwargs)
            if x.numel():
                self.log(self._upload(x, asynchronous), "to")
            return _Tensor(real_to(x.detach(), dtype or x.dtype, copy=True), device)

        functional = torch.nn.functional
        monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
        monkeypatch.setattr(torch.Tensor, "to", to)
        monkeypatch.setattr(
            torch.Tensor,
            "pin_memory",
            lambda x, *device: real_pin(x) if isinstance(x, _Tensor) else self.pin(x),
        )
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
        for cached in (streams.side_stream, launch_config.capability_of, launch_config.processors):
            cached.cache_clear()
        _active = self
        try:
            with _Mode():
                yield self
        finally:
            _active = None
            for cached in (
                streams.side_stream,
                launch_config.capability_of,
                launch_config.processors,
            ):
                cached.cache_clear()

    @staticmethod
    def thread() -> contextlib.AbstractContextManager[object]:
        """Return a context in which another thread sees the devices."""
        return _Mode()

    def move(self, model: nn.Module, device: torch.device = CUDA) -> None:
        """Move a model's weights to a device."""
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(_Tensor(weight.detach(), device), False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _Tensor(buffer, device)


def _enter_no_grad(context: Any) -> None:
    context.before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(context.before and not context.mode)


def _leave_no_grad(context: Any, *error: object) -> None:
    torch._C._set_grad_enabled(context.before)


def _data(x: Tensor) -> Tensor:
    return x.data_on_host if isinstance(x, _Tensor) else x


def _by_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _where() -> tuple[str, frozenset[str]]:
    lines, functions = [], []
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/fastsam2/" in file and "site-packages" not in file:
            lines.append(f"{file.rpartition('/fastsam2/')[2]}:{frame.f_lineno}")
            functions.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(lines[:4]), frozenset(functions)
