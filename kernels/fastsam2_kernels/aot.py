"""What of each op is compiled ahead of time to see that it fits every GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Variant"]


@dataclass(frozen=True)
class Variant:
    """One kernel at one launch, as the op would launch it on GPUs of one capability.

    Attributes:
        op: folder name of the op.
        kernel: the `@triton.jit` function.
        label: what distinguishes it in a table, such as `bf16 128x64`.
        capability: 80, 86, 89, 90 or 100.
        signature: Triton type of each argument that is not constant, such as `*bf16` or `i32`.
        constants: values of the `tl.constexpr` arguments.
        num_warps, num_stages: launch options.
        has_dot: it multiplies matrices, so tensor-core instructions are expected.
        aligned: arguments that are divisible by 16 at run time, pointers included; None: all
            pointers.
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
    aligned: tuple[str, ...] | None = None
