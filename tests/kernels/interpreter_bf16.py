"""Patch Triton's interpreter to compute in bfloat16.

The interpreter stores bfloat16 as bit patterns in uint16, on which numpy adds, multiplies and
compares. The patch replaces casts, dots and binary operations (verified with Triton 3.7.1);
reductions must be in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["install"]


def _to_float(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bits(values: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even, as the hardware does."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def install() -> None:
    """Patch the interpreter, once."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    if getattr(builder, "knows_bfloat16", False):
        return
    cast, dot, binary = builder.cast_impl, builder.create_dot, builder.binary_op

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        source, target = src.dtype.scalar, dst_type.scalar
        if source == tl.bfloat16 and target != tl.bfloat16:
            return handle(_to_float(src.data).astype(interpreter._get_np_dtype(dst_type)), target)
        if target == tl.bfloat16 and source != tl.bfloat16:
            return handle(_to_bits(src.data.astype(np.float32)), target)
        return cast(self, src, dst_type)

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        def widened(x: Any) -> Any:
            is_bf16 = x.dtype.scalar == tl.bfloat16
            return handle(_to_float(x.data), tl.float32) if is_bf16 else x

        return dot(self, widened(a), widened(b), d, precision, imprecise)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if lhs.dtype.scalar != tl.bfloat16:
            return binary(self, lhs, rhs, op)
        out = op(_to_float(lhs.data), _to_float(rhs.data))
        if out.dtype == np.bool_:
            return handle(out, tl.int1)
        return handle(_to_bits(out), tl.bfloat16)

    builder.cast_impl, builder.create_dot, builder.binary_op = cast_impl, create_dot, binary_op
    builder.get_bf16 = lambda self, value: handle(
        _to_bits(np.array([value], np.float32)), tl.bfloat16
    )
    builder.knows_bfloat16 = True
