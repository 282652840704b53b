"""Description of kernels that are compiled ahead of time, to check that they fit every GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Variant"]


@dataclass(frozen=True)
class Variant:
    """One kernel with one set of launch parameters, as the op launches it on a GPU.

    Attributes:
        op: folder name of the op.
        kernel: the `@triton.jit` or `@gluon.jit` function.
        label: name of the variant in a table, such as `bf16 128x64`.
        capability: compute capability of the GPU: 80, 86, 89, 90 or 100.
        signature: Triton type of each non-constant argument, such as `*bf16` or `i32`.
        constants: values of the `tl.constexpr` arguments.
        num_warps, num_stages: launch options.
        has_dot: True if it multiplies matrices, so that tensor-core instructions are expected.
        overlaps: True if all exponentials of its loop are to be computed during a product.
        aligned: arguments divisible by 16 at run time, pointers included; None for all pointers.
    """

    op: str
    kernel: Any
    label: str
    capability: int
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    has_dot: bool
    overlaps: bool = False
    aligned: tuple[str, ...] | None = None
