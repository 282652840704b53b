"""Mask output on a CPU: each object within its window, in strips of rows that stay in cache.

Bilinear interpolation is separable, and its results lie between its inputs. So each object is
limited to the window in which its logits exceed the threshold, columns are interpolated once per
row of logits, and each row of the video is combined from two of those. The arithmetic is that of
`F.interpolate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.mask_output.bits import boxes_of
from fastsam2_kernels.mask_output.reference import MaskOutput

__all__ = ["mask_output_cpu"]

_STRIP = 2**16  # pixels; the buffers of a strip fit into a cache of 1 MiB


class _Axis(NamedTuple):
    """Sources of the pixels of one axis: `low[before] * (1 - weight) + low[after] * weight`."""

    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    weight: Tensor

    @classmethod
    def of(cls, logits: Tensor, axis: int, n_out: int) -> _Axis:
        n_in = logits.shape[axis]
        scale = logits.new_tensor(n_in / n_out).double()
        # Float32 coordinates are rounded once, as by a fused multiply-add.
        pixels = torch.arange(n_out, dtype=torch.float64, device=logits.device)
        at = ((pixels + 0.5) * scale - 0.5).to(logits.dtype).clamp(min=0)
        before = at.long().clamp(max=n_in - 1)
        after = (before + 1).clamp(max=n_in - 1)
        return cls(before.numpy(), after.numpy(), (at - before).clamp(max=1))

    def span(self, occupied: npt.NDArray[np.bool_]) -> tuple[int, int]:
        """Return the range of pixels that have an occupied source; (0, 0) if there is none."""
        found = np.flatnonzero(occupied[self.before] | occupied[self.after])
        return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


def mask_output_cpu(
    logits: Tensor, height: int, width: int, threshold: float, non_overlap: bool
) -> MaskOutput:
    """Compute the same as `mask_output_reference`."""
    logits = logits.detach()
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    n = len(logits)
    y, x = _Axis.of(logits, 1, height), _Axis.of(logits, 2, width)
    bits = np.zeros((n, height, -(-width // 8)), np.uint8)
    # Bytes are twice as fast. Later objects have higher numbers, so `np.maximum` stores the newest.
    labels = np.zeros((height, width), np.uint8 if n < 256 else np.int16)
    best = np.full((height, width), threshold, logits.numpy().dtype)
    above = logits.numpy() > threshold
    areas, windows = np.zeros(n, np.int64), []
    for i in range(n):
        top, bottom = y.span(above[i].any(1))
        left, right = x.span(above[i].any(0))
        left -= left % 8
        windows.append((slice(top, bottom), slice(left, right)))
        for strip, values in _strips(logits[i], y, width, *windows[-1]):
            window = strip, windows[-1][1]
            if not non_overlap:
                areas[i] += _store(bits[i], window, values > threshold)
            highest = values > best[window]
            np.fmax(values, best[window], out=best[window])
            number = highest.view(np.uint8) * labels.dtype.type(i + 1)
            np.maximum(number, labels[window], out=labels[window])
    if non_overlap:
        for i, window in enumerate(windows):
            areas[i] = _store(bits[i], window, labels[window] == i + 1)
    packed, image, counts = map(torch.from_numpy, (bits, labels.astype(np.int16), areas))
    return MaskOutput(packed, image, counts, boxes_of(packed))


def _store(
    bits: npt.NDArray[np.uint8], window: tuple[slice, slice], mask: npt.NDArray[np.bool_]
) -> int:
    """Store the mask of a window, and return its area."""
    rows, columns = window
    bits[rows, columns.start // 8 : -(-columns.stop // 8)] = np.packbits(mask, axis=-1)
    return int(np.count_nonzero(mask))


def _strips(
    logits: Tensor, y: _Axis, width: int, rows: slice, columns: slice
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield upsampled logits of a window of the video as (rows, values) of each strip."""
    if rows.start == rows.stop or columns.start == columns.stop:
        return
    first, last = y.before[rows.start], y.after[rows.stop - 1]
    wide = logits[first : last + 1]
    if wide.shape[1] != width:
        wide = F.interpolate(wide[None], width, mode="linear", align_corners=False)[0]
    source = np.ascontiguousarray(wide[:, columns].numpy())
    step = max(1, _STRIP // source.shape[1])
    for start in range(rows.start, rows.stop, step):
        strip = slice(start, min(start + step, rows.stop))
        if len(logits) == len(y.before):
            yield strip, source[start - first : strip.stop - first]
            continue
        before, after = (
            torch.from_numpy(source.take(i[strip] - first, axis=0)) for i in (y.before, y.after)
        )
        weight = y.weight[strip, None]
        yield strip, after.mul_(weight).addcmul_(before, 1 - weight).numpy()
