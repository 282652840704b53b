"""Registration of ops with PyTorch, and the choice of implementation that they share."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastsam2_kernels.dispatch import Impl, uses_triton
from fastsam2_kernels.launch_config import TRITON_NAMES

__all__ = ["Record", "dtype_misfit", "register_op"]

P = ParamSpec("P")
T = TypeVar("T")


class Record(Protocol):
    """Tensors that an op takes as one argument; its registered form takes them as a list."""

    def flat(self) -> list[Tensor]: ...

    @staticmethod
    def from_flat(tensors: Sequence[Tensor]) -> Any: ...


def dtype_misfit(dtype: torch.dtype) -> TypeError | None:
    """Return the error of a dtype that no kernel computes in, None if there is none."""
    if dtype in TRITON_NAMES:
        return None
    return TypeError(f"impl='triton' takes float16, bfloat16 or float32, not {dtype}")


def register_op(
    name: str,
    schema: str,
    *,
    fake: Callable[..., T],
    reference: Callable[P, T],
    kernel: str,
    cpu: Callable[P, T] | None = None,
    fallback: Callable[P, T] | None = None,
    misfit: Callable[..., Exception | None] = lambda *_: None,
    prefers: Callable[..., bool] = lambda *_: True,
    record: type[Record] | None = None,
    flops: Callable[..., int] | None = None,
) -> Callable[Concatenate[Impl, P], T]:
    """Register `torch.ops.fastsam2.<name>` and return a function that runs the op.

    That function takes `impl` and then the arguments of the op, by position: "auto" calls the
    registered op, which `torch.compile` keeps whole; "triton" launches the kernel or raises;
    "reference" calls the reference, which is differentiable.

    Args:
        schema: arguments and results in PyTorch's notation, such as `(Tensor x) -> Tensor`.
        fake: returns empty results of the right shape, dtype and layout.
        reference: eager PyTorch.
        kernel: launcher of the Triton kernel, imported when it is first needed, as
            `module:function` in `fastsam2_kernels`.
        cpu: "auto" on a CPU; default: the reference.
        fallback: "auto" on a GPU where the kernel does not run; default: the reference.
        misfit: error of arguments that the kernel cannot take, None if it can.
        prefers: False for arguments that "auto" leaves to `fallback` although the kernel fits.
        record: class of an argument that is registered as a list of tensors.
        flops: number of operations, from the shapes of the registered arguments.
    """
    eager: Callable[..., T] = reference

    def launch(*args: Any) -> T:
        # Triton launches on the current device.
        with torch.cuda.device_of(args[0]):
            result: T = pkgutil.resolve_name(f"fastsam2_kernels.{kernel}")(*args)
            return result

    def on_cuda(*args: Any) -> T:
        selected = uses_triton("auto", args[0]) and misfit(*args) is None and prefers(*args)
        path: Callable[..., T] = launch if selected else fallback or eager
        return path(*args)

    def unflattened(function: Callable[..., T]) -> Callable[..., T]:
        if record is None:
            return function
        return lambda *args: function(
            *(record.from_flat(x) if isinstance(x, list) else x for x in args)
        )

    op = torch.library.custom_op(
        f"fastsam2::{name}",
        unflattened(on_cuda),
        mutates_args=(),
        device_types="cuda",
        schema=schema,
    )
    op.register_kernel("cpu", unflattened(cpu or eager))
    op.register_fake(fake)
    if flops is not None:
        register_flop_formula(getattr(torch.ops.fastsam2, name))(flops)

    def run(impl: Impl, *args: Any) -> T:
        if impl == "auto":
            if record is not None:
                args = tuple(x.flat() if isinstance(x, record) else x for x in args)
            return op(*args)
        if not uses_triton(impl, args[0]):
            return eager(*args)
        if error := misfit(*args):
            raise error
        return launch(*args)

    return run  # type: ignore[return-value]
