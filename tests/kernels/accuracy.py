"""Comparison of kernels with the float64 reference."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def poisoned(like: Tensor) -> Tensor:
    """Return an output buffer of NaN, which reveals elements that are not written."""
    return torch.full_like(like, float("nan"))


def error(out: Tensor, exact: Tensor) -> float:
    """Return the largest difference, relative to the largest magnitude of the exact result."""
    assert out.shape == exact.shape, (out.shape, exact.shape)
    if exact.numel() == 0:
        return 0.0
    difference = (out.double() - exact.double()).abs().max()
    assert torch.isfinite(difference), "the kernel left NaN or infinity behind"
    return float(difference / exact.double().abs().max().clamp(min=1e-30))


def assert_accurate(out: Tensor, exact: Tensor, plain: Tensor | None = None) -> None:
    """Assert an error of 1e-5 in float32, and in half precision twice that of PyTorch's `plain`.

    Args:
        exact: the reference in float64 on the same (already rounded) inputs.
        plain: the reference in the dtype of `out`; needed for half precision.
    """
    if out.dtype in (torch.float32, torch.float64):
        assert error(out, exact) <= 1e-5
        return
    assert plain is not None
    # Every path rounds its output once.
    rounding = torch.finfo(out.dtype).eps / 2
    assert error(out, exact) <= 2 * max(error(plain, exact), rounding)
