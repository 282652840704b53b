"""Arithmetic of PTX on arrays, as NumPy lacks it: conversions, shuffles and matrix products.

An array has the axes [programs, threads], either of which may be 1 if it is uniform. Functions of
a warp take `shape`, the full size of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "add_product",
    "bit_field",
    "divide",
    "from_bf16",
    "half",
    "insert_bits",
    "matrix_a",
    "matrix_product",
    "multiply",
    "multiply_high",
    "reduce_warp",
    "round_integer",
    "select_bits",
    "select_bytes",
    "shift_left",
    "shift_right",
    "shuffle",
    "to_bf16",
    "to_f16",
    "to_tf32",
    "unpack",
    "warps",
]

Array = NDArray[np.generic]
Shape = tuple[int, int]
WARP = 32
_LANES = np.arange(WARP)


# Numbers


def to_bf16(x: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; returns its bits."""
    bits = x.astype(np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + odd + np.uint32(0x7FFF)) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def from_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_f16(x: Array) -> Array:
    return x.astype(np.float16).view(np.uint16)


def half(x: Array, number: int, kind: str) -> Array:
    """Return the lower or upper number of a pair."""
    bits = (x >> 16 * number).astype(np.uint16)
    return from_bf16(bits) if kind == "bf16" else bits.view(np.float16)


def to_tf32(bits: Array) -> Array:
    """Round the bits of float32 to 10 bits of mantissa, ties away from zero."""
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return np.where(special, bits, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000))


def add_product(x: Array, y: Array, z: Array) -> Array:
    """Fused multiply-add of float32: the product of two is exact in float64."""
    return (x.astype(np.float64) * y + z).astype(np.float32)


def round_integer(x: Array, kind: str) -> Array:
    """Convert whole float numbers to integers; beyond the range to its end, NaN to zero."""
    limits = np.iinfo(kind)
    # The largest float64 below 2^63 or 2^64.
    largest = np.nextafter(float(limits.max), 0) if limits.bits == 64 else limits.max
    return np.nan_to_num(np.clip(x.astype(np.float64), limits.min, largest)).astype(kind)


def divide(x: Array, y: Array) -> Array:
    """Divide integers towards zero; division by zero, undefined in PTX, by one."""
    y = np.where(y == 0, y.dtype.type(1), y)
    if x.dtype.kind == "u":
        return x // y
    quotient = np.abs(x) // np.abs(y)
    return np.where((x < 0) != (y < 0), -quotient, quotient)


def multiply(x: Array, y: Array) -> Array:
    """Return the product of integers in twice their width."""
    wide = np.dtype(f"{x.dtype.kind}{2 * x.dtype.itemsize}")
    return x.astype(wide) * y.astype(wide)


def multiply_high(x: Array, y: Array) -> Array:
    return (multiply(x, y) >> 8 * x.dtype.itemsize).astype(x.dtype)


def shift_left(x: Array, count: Array) -> Array:
    bits = 8 * x.dtype.itemsize
    shifted = x << np.minimum(count, bits - 1).astype(x.dtype)
    return np.where(count < bits, shifted, x.dtype.type(0))


def shift_right(x: Array, count: Array) -> Array:
    """Shift right, with copies of the sign if `x` is signed."""
    bits = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(count, bits - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(count < bits, shifted, x.dtype.type(0))


def bit_field(x: Array, first: int, count: int) -> Array:
    """Extract bits, with copies of the last one if `x` is signed (`bfe`)."""
    bits = 8 * x.dtype.itemsize
    count = min(count, bits - first)
    return (x << bits - first - count) >> bits - count


def insert_bits(x: Array, y: Array, first: int, count: int) -> Array:
    """Replace bits of `y` by the lowest of `x` (`bfi`)."""
    field = (1 << count) - 1 << first
    return ((x << first) & field) | (y & 256**y.dtype.itemsize - 1 - field)


def select_bits(x: Array, y: Array, z: Array, table: int) -> Array:
    """Apply a bitwise function of three inputs, given by its truth table (`lop3`)."""
    out = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.uint32)
    for i in range(8):
        if table >> i & 1:
            out |= (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
    return out


def select_bytes(x: Array, y: Array, selector: int) -> Array:
    """Pick four of the eight bytes of `x` and `y` (`prmt`)."""
    out = np.uint32(0)
    for i in range(4):
        choice = selector >> 4 * i & 15
        if choice > 7:
            raise NotImplementedError("prmt that replicates a sign")
        source = x if choice < 4 else y
        byte = (source >> np.uint32(8 * (choice % 4))) & np.uint32(255)
        out = out | (byte << np.uint32(8 * i))
    return out


# Warps


def warps(x: Array, shape: Shape) -> Array:
    """Return an array as [programs, warps, lanes]."""
    return np.broadcast_to(x, shape).reshape(shape[0], -1, WARP)


def shuffle(x: Array, mode: str, count: Array, clamp: int, shape: Shape) -> Array:
    """Return the value of another lane of the warp."""
    lanes = warps(x, shape)
    if clamp != (0 if mode == "up" else 31):
        raise NotImplementedError(f"shuffle within a part of a warp, {clamp:#x}")
    n = warps(count, shape).astype(np.int64)
    if mode == "idx":
        source = n & 31
    elif mode == "bfly":
        source = _LANES ^ n
    elif mode == "up":
        source = np.where(n <= _LANES, _LANES - n, _LANES)
    else:
        source = np.where(_LANES + n < WARP, _LANES + n, _LANES)
    return np.take_along_axis(lanes, source, 2).reshape(shape)


def reduce_warp(x: Array, operation: np.ufunc, shape: Shape) -> Array:
    lanes = warps(x, shape)
    reduced = operation.reduce(lanes, axis=2, keepdims=True, dtype=x.dtype)
    return np.broadcast_to(reduced, lanes.shape).reshape(shape)


# Matrix products. In a fragment, lane 4 g + t holds row g.


def unpack(x: Array, kind: str) -> Array:
    """Return the numbers in 32-bit registers as float32, with one more axis of 1 or 2 numbers."""
    x = np.ascontiguousarray(x)[..., None]
    if kind == "tf32":
        # The matrix unit ignores the lowest 13 bits of a float32.
        return (x & np.uint32(0xFFFFE000)).view(np.float32)
    if kind == "bf16":
        return (np.concatenate([x << np.uint32(16), x & np.uint32(0xFFFF0000)], -1)).view(
            np.float32
        )
    return x.view(np.float16).astype(np.float32)


def _rows(x: Array, kind: str, shape: Shape) -> Array:
    """Return a fragment register as [programs, warps, 8 rows, 4 or 8 columns]."""
    numbers = unpack(np.broadcast_to(x, shape), kind)
    return numbers.reshape(shape[0], shape[1] // WARP, 8, -1)


def matrix_a(registers: Sequence[Array], kind: str, shape: Shape) -> Array:
    """Return A of m16n8k16 or m16n8k8 as [programs, warps, 16, K]."""
    a, b, c, d = (_rows(x, kind, shape) for x in registers)
    return np.concatenate([np.concatenate([a, c], -1), np.concatenate([b, d], -1)], -2)


def matrix_product(
    a: Sequence[Array], b: Sequence[Array], c: Sequence[Array], kind: str, shape: Shape
) -> Array:
    """Multiply and accumulate the fragments of m16n8k16 or m16n8k8 (`mma`)."""
    columns = np.concatenate([_rows(x, kind, shape) for x in b], -1)
    product = matrix_a(a, kind, shape) @ columns.swapaxes(-1, -2)
    # Rows g and g + 8, columns 2 t and 2 t + 1.
    product = product.reshape(*product.shape[:2], 2, 8, 4, 2).transpose(2, 5, 0, 1, 3, 4)
    return [x + y for x, y in zip(product.reshape(4, *shape), c, strict=True)]
