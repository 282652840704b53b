"""Bulk copies of tensors and their barriers, on the emulated Hopper GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from tests.emulator.driver import Driver
from tests.emulator.faults import EmulationError
from tests.emulator.gpu import emulated
from tests.kernels.accuracy import assert_accurate

pytest.importorskip("triton.experimental.gluon")
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor


@pytest.fixture
def gpu() -> Iterator[Driver]:
    """Emulated GPU of sm_90."""
    with emulated(90) as driver:
        yield driver


@triton.jit
def product_kernel(a, b, out, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        acc = tl.dot(a.load([m, k]), b.load([k, n]), acc)
    out.store([m, n], acc.to(out.dtype))


def multiply(a: torch.Tensor, b: torch.Tensor, stages: int) -> torch.Tensor:
    out = torch.empty(len(a), b.shape[1], dtype=a.dtype)
    tiles = (
        TensorDescriptor.from_tensor(x, list(block))
        for x, block in ((a, (64, 64)), (b, (64, 32)), (out, (64, 32)))
    )
    grid = triton.cdiv(len(a), 64), triton.cdiv(b.shape[1], 32)
    product_kernel[grid](*tiles, a.shape[1], BM=64, BN=32, BK=64, num_stages=stages)
    return out


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("size", [(128, 64, 128), (72, 40, 200)])
def test_tiles_in_a_pipeline(gpu: Driver, size: tuple[int, int, int], stages: int) -> None:
    """Copies with swizzles of 128 and 64 bytes; past the ends they read zeros, write nothing."""
    m, n, k = size
    a, b = torch.randn(m, k).half(), torch.randn(k, n).half()
    assert_accurate(multiply(a, b, stages), a.double() @ b.double(), a @ b)


@gluon.jit
def copy_kernel(x, y, waits: gl.constexpr):
    tile = gl.allocate_shared_memory(x.dtype, x.block_type.shape, x.layout)
    bar = gl.allocate_shared_memory(gl.int64, [1], hopper.mbarrier.MBarrierLayout())
    hopper.mbarrier.init(bar, count=1)
    hopper.mbarrier.expect(bar, x.block_type.nbytes)
    hopper.tma.async_copy_global_to_shared(x, [gl.program_id(0) * 16, 0], bar, tile)
    if waits:
        hopper.mbarrier.wait(bar, 0)
    hopper.tma.async_copy_shared_to_global(y, [gl.program_id(0) * 16, 0], tile)
    hopper.tma.store_wait(0)


def copy(x: torch.Tensor, waits: bool = True) -> torch.Tensor:
    y = torch.zeros_like(x)
    layout = gl.NVMMASharedLayout.get_default_for([16, 32], gl.float32)
    tiles = (GluonDescriptor.from_tensor(t, [16, 32], layout) for t in (x, y))
    copy_kernel[(3,)](*tiles, waits=waits)
    return y


def test_barriers_of_gluon(gpu: Driver) -> None:
    x = torch.randn(48, 32)
    assert torch.equal(copy(x), x)
    assert copy(x, waits=False).isnan().all(), "a copy has not arrived before the wait"


def test_barrier_that_never_completes(gpu: Driver) -> None:
    gpu.edit = lambda name, ptx: re.sub(r", 2048;", ", 4096;", ptx)
    with pytest.raises(EmulationError, match=r"never completes.*2048 of 4096 bytes"):
        copy(torch.randn(48, 32))
