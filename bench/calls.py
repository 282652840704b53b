"""Record the kernel launches and operations of a function without running them, and compile them.

The function runs on meta tensors, with the launch parameters of a GPU that need not be there.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.compile import Result, compile_variant
from fastsam2_kernels.aot import Variant
from tests.kernels.launching import launching_for

__all__ = ["Call", "compiled", "record"]


@dataclass(frozen=True)
class Call:
    """A kernel launch, or an operation of PyTorch."""

    op: str  #: op of the package that makes the call, empty if none does
    moved: int  #: bytes of its tensors
    flops: int = 0  #: of an operation of PyTorch
    kernel: Any = None  #: JIT function; None for an operation of PyTorch
    grid: tuple[int, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)  #: a tensor as its type in Triton

    @property
    def programs(self) -> int:
        """Number of programs of a launch."""
        return math.prod(self.grid)


def record(run: Callable[[], object], capability: int, processors: int) -> list[Call]:
    """Return the calls of `run` on a GPU of `capability` with so many multiprocessors.

    Views and allocations are no calls.

    Raises:
        RuntimeError: kernels are interpreted in this process.
    """
    from triton.runtime.jit import JITFunction

    recorder = _Recorder()
    with (
        launching_for(capability, processors),
        mock.patch.object(JITFunction, "run", recorder.launch),
        torch.inference_mode(),
    ):
        run()  # fills caches of constants
        recorder.calls.clear()
        with recorder:
            run()
    return recorder.calls


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    @property
    def launch(self) -> Callable[..., None]:
        """Replacement of `JITFunction.run`."""

        def run(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **named: Any) -> None:
            named |= dict(zip(kernel.arg_names, args, strict=False))
            seen = {k: _type(v) if isinstance(v, Tensor) else v for k, v in named.items()}
            self.calls.append(Call(_op(), _moved(args), 0, kernel, grid, seen))

        return run

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if func.namespace == "fastsam2":
            kernel = importlib.import_module(f"fastsam2_kernels.{name}.kernel")
            with self:
                return kernel.launch(*args, **kwargs)
        with FlopCounterMode(display=False) as counter:
            out = func(*args, **kwargs)
        read, written = _tensors((args, kwargs)), _tensors(out)
        in_place = func._schema.is_mutable
        view = not in_place and _storages(read) & _storages(written)
        if view or "empty" in name or not (written and written[0].is_meta):
            return out
        if name.startswith("index"):  # accesses some rows only of the first tensor
            read, written = read[1:], [] if in_place else written
        self.calls.append(Call(_op(), _moved([*read, *written]), counter.get_total_flops()))
        return out


def _type(tensor: Tensor) -> str:
    from triton.runtime.jit import type_canonicalisation_dict

    return f"*{type_canonicalisation_dict[str(tensor.dtype).removeprefix('torch.')]}"


def _op() -> str:
    """Return the op whose launcher is running; empty if none is."""
    frame = sys._getframe()
    while frame.f_back is not None:
        module = frame.f_globals["__name__"]
        if found := re.fullmatch(r"fastsam2_kernels\.(\w+)\.kernel", module):
            return found[1]
        frame = frame.f_back
    return ""


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {x.untyped_storage()._cdata for x in tensors}


def _moved(tree: Any) -> int:
    """Return the bytes of tensors, each once, and as stored if they are expanded."""
    distinct = {
        (x.untyped_storage()._cdata, x.storage_offset(), x.shape): x for x in _tensors(tree)
    }
    return sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in distinct.values())


def compiled(call: Call, capability: int) -> Result:
    """Compile the kernel of a launch for GPUs of `capability`.

    Raises:
        LookupError: the launch is none of the shipped ones.
    """
    for i, variant in enumerate(_variants(call.op, capability)):
        wanted = dict(variant.constants)
        wanted |= {k: v for k, v in variant.signature.items() if v[0] == "*"}
        if variant.kernel is call.kernel and wanted.items() <= call.arguments.items():
            return _compile(call.op, i, capability)
    raise LookupError(f"{call.kernel.__name__} is not compiled for {call.arguments}")


@functools.cache
def _variants(op: str, capability: int) -> list[Variant]:
    module = importlib.import_module(f"fastsam2_kernels.{op}.kernel")
    found: list[Variant] = module.variants(capability)
    return found


@functools.cache
def _compile(op: str, index: int, capability: int) -> Result:
    return compile_variant(_variants(op, capability)[index])
