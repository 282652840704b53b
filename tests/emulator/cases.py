"""Calls of the ops at small shapes, with each set of launch parameters that is shipped."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.emulator.gpu import forced
from tests.kernels import (
    test_cx_block,
    test_mask_downsample,
    test_memory_attention,
    test_memory_keys,
    test_rope_attention,
)
from tests.kernels.accuracy import DTYPES, assert_accurate

__all__ = ["Case", "cases", "mapped"]


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        arguments: returns the arguments, by position.
        options: arguments by keyword.
        launch: parameters to force; None for those that the op chooses.
        defined: returns the part of a result that is defined.
    """

    op: str
    label: str
    arguments: Callable[[], Sequence[Any]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    launch: Any = None
    splits: int | None = None
    defined: Callable[[Tensor, Sequence[Any]], Tensor] = lambda out, _: out

    def __str__(self) -> str:
        return f"{self.op} {self.label}"

    def run(self, arguments: Sequence[Any]) -> Tensor:
        """Launch the kernels."""
        function = getattr(importlib.import_module(f"fastsam2_kernels.{self.op}"), self.op)
        context = nullcontext()
        if self.launch is not None:
            context = forced(self.op, self.launch, self.splits)
        with context:
            return function(*arguments, **self.options, impl="triton")

    def reference(self, arguments: Sequence[Any]) -> Tensor:
        name = f"fastsam2_kernels.{self.op}.reference:{self.op}_reference"
        return pkgutil.resolve_name(name)(*arguments, **self.options)

    def check(self, out: Tensor, arguments: Sequence[Any]) -> None:
        """Compare with the reference in float64 on the same arguments."""
        wide = mapped(arguments, lambda x: x.double() if x.is_floating_point() else x)
        expected, plain = self.reference(wide), self.reference(arguments)
        assert_accurate(*(self.defined(x, arguments) for x in (out, expected, plain)))


def mapped(arguments: Sequence[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    """Return arguments with `change` applied to each tensor, in records too."""

    def changed(x: Any) -> Any:
        if isinstance(x, Tensor):
            return change(x)
        if hasattr(x, "flat"):
            return type(x).from_flat([change(tensor) for tensor in x.flat()])
        return x

    return [changed(x) for x in arguments]


def cases(capability: int) -> Iterator[Case]:
    """Yield calls that cover the launches shipped for a capability."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for dim in (128, 256):
            yield from _memory_keys(dim, dtype, name, capability)
            yield from _memory_attention(dim, dtype, name, capability)
            yield from _rope_attention(dim, dtype, name, capability)
            yield from _cx_block(dim, dtype, name, capability)
        yield from _mask_downsample(dtype, name)


def chosen(op: str, **call: Any) -> Any:
    """Return the rule's launch parameters; `call` may have properties that the rule ignores."""
    choose = pkgutil.resolve_name(f"fastsam2_kernels.{op}.tuning:choose")
    names = inspect.signature(choose).parameters
    return choose(**{name: x for name, x in call.items() if name in names})


def _memory_keys(dim: int, dtype: torch.dtype, name: str, capability: int) -> Iterator[Case]:
    launch = chosen("memory_keys", dim=dim, dtype=dtype, capability=capability)
    for tokens in (80, 37):
        yield Case(
            "memory_keys",
            f"{name} D{dim} T{tokens}",
            lambda tokens=tokens: test_memory_keys.inputs(
                3, tokens, dtype, layers=4, dim=dim, width=64
            ),
            launch=launch,
            # Keys of padding are undefined.
            defined=lambda out, arguments: out[:, arguments[7] >= 0],
        )


def _memory_attention(dim: int, dtype: torch.dtype, name: str, capability: int) -> Iterator[Case]:
    # Small tokens stand for those of the model: a multiple of every tile, and one that is not.
    for queries, (tokens, real) in itertools.product((4096, 256), ((128, 4096), (101, 4095))):
        launch = chosen(
            "memory_attention",
            queries=queries,
            tokens=real,
            dim=dim,
            dtype=dtype,
            capability=capability,
        )
        for splits in (1, 3):
            yield Case(
                "memory_attention",
                f"{name} D{dim} Q{queries} T{tokens} splits {splits}",
                # Objects with both memories and pointers, pointers alone, memory alone.
                lambda tokens=tokens: test_memory_attention.inputs(
                    [2, 0, 1], [5, 3, 0], dtype, queries=150, tokens=tokens, dim=dim, width=64
                ),
                launch=launch,
                splits=splits,
            )


def _rope_attention(dim: int, dtype: torch.dtype, name: str, capability: int) -> Iterator[Case]:
    for (length, real), splits in itertools.product(((160, 4096), (131, 4095)), (1, 2)):
        launch = chosen(
            "rope_attention", n=2, length=real, dim=dim, dtype=dtype, capability=capability
        )
        yield Case(
            "rope_attention",
            f"{name} D{dim} L{length} splits {splits}",
            lambda length=length: test_rope_attention.inputs(2, length, dim, dtype, packed=True),
            launch=dataclasses.replace(launch, splits=splits),
        )


def _cx_block(channels: int, dtype: torch.dtype, name: str, capability: int) -> Iterator[Case]:
    launch = chosen("cx_block", channels=channels, dtype=dtype, capability=capability)

    def arguments() -> list[Any]:
        x = test_cx_block.inputs(2, 9, 13, channels, dtype)
        return [*x[:5], test_cx_block.EPS, *x[5:]]

    yield Case("cx_block", f"{name} C{channels}", arguments, launch=launch)


def _mask_downsample(dtype: torch.dtype, name: str) -> Iterator[Case]:
    def arguments(mask: Tensor) -> list[Any]:
        weights = test_mask_downsample.random_weights(dtype)
        return [mask, test_mask_downsample.SCALE, test_mask_downsample.BIAS, weights]

    for label, options, mask in (
        ("logits", {}, lambda: 4 * torch.randn(2, 9, 12)),
        ("binarized", {"binarize": True}, lambda: torch.randn(2, 9, 12)),
        ("full-size logits", {"upsample": 1}, lambda: torch.randn(1, 29, 18)),
        ("mask", {"upsample": 1}, lambda: torch.randn(1, 29, 18) > 0),
    ):
        yield Case(
            "mask_downsample",
            f"{name} {label}",
            lambda mask=mask: arguments(mask()),
            options=options,
        )
