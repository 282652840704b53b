"""The compiled resize kernels against the reference, bit for bit."""

from __future__ import annotations

import pytest
import torch

from fastsam2_kernels.resize import resize
from tests.emulator.driver import Driver
from tests.kernels.accuracy import DTYPES
from tests.kernels.test_resize import MEAN, SIZES, STD, noise

Size = tuple[int, int]


def test_enlarge(gpu: Driver) -> None:
    check(gpu, torch.float32, *SIZES[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_any_size(gpu: Driver, dtype: torch.dtype, sizes: tuple[Size, Size]) -> None:
    check(gpu, dtype, *sizes)


def check(gpu: Driver, dtype: torch.dtype, given: Size, wanted: Size) -> None:
    arguments = noise(2, given), wanted, MEAN, STD
    out = resize(*arguments, dtype=dtype, impl="triton")
    assert torch.equal(out, resize(*arguments, dtype=dtype, impl="reference"))
    assert gpu.launches
