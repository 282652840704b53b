"""Faults of kernels are reported, each with file and line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tests.emulator.driver import Driver
from tests.emulator.faults import EmulationError
from tests.emulator.test_arithmetic import multiply


def at(kernel: Any, code: str) -> str:
    """Return the place of a line of a kernel as faults report it, as a pattern."""
    lines, first = inspect.getsourcelines(kernel.fn)
    (number,) = [i for i, line in enumerate(lines) if code in line]
    return re.escape(f"{inspect.getsourcefile(kernel.fn).rsplit('/', 1)[-1]}:{first + number}")


@triton.jit
def copy_kernel(p_x, p_out, shift, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(p_x + shift + o, mask=o < n)
    tl.store(p_out + o, x, mask=o < n)


def test_load_out_of_bounds(gpu: Driver) -> None:
    x, out = torch.randn(100), torch.empty(128)
    with pytest.raises(EmulationError, match=f"load out of bounds at {at(copy_kernel, 'tl.load')}"):
        copy_kernel[(1,)](x, out, 1, 100, BLOCK=128)
    with pytest.raises(EmulationError, match=r"4 bytes before p_x"):
        copy_kernel[(1,)](x, out, -1, 100, BLOCK=128)
    copy_kernel[(1,)](x, out, 0, 100, BLOCK=128)
    assert torch.equal(out[:100], x)


def test_store_out_of_bounds(gpu: Driver) -> None:
    x, out = torch.randn(128), torch.empty(100)
    place = at(copy_kernel, "tl.store")
    with pytest.raises(
        EmulationError, match=rf"store out of bounds at {place}.*byte 4\d\d of p_out"
    ):
        copy_kernel[(1,)](x, out, 0, 128, BLOCK=128)


@triton.jit
def aligned_kernel(p_x, p_start, p_out, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    start = tl.multiple_of(tl.load(p_start), 16)
    tl.store(p_out + o, tl.load(p_x + start + o))


def test_misaligned(gpu: Driver) -> None:
    """A false promise of divisibility leads to loads that are too wide."""
    x, out = torch.randn(2048), torch.empty(1024)
    start = torch.tensor([32], dtype=torch.int32)
    aligned_kernel[(1,)](x, start, out, BLOCK=1024)
    assert torch.equal(out, x[32 : 1024 + 32])
    place = at(aligned_kernel, "p_x + start")
    with pytest.raises(EmulationError, match=f"misaligned load of 16 bytes at {place}"):
        aligned_kernel[(1,)](x, start + 1, out, BLOCK=1024)


@triton.jit
def overlapping_kernel(p_x, p_out, STEP: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    tl.store(p_out + o, tl.load(p_x + o) + 1)


def test_race_of_stores(gpu: Driver) -> None:
    x, out = torch.randn(256), torch.empty(256)
    overlapping_kernel[(4,)](x, out, STEP=64, BLOCK=64)
    place = at(overlapping_kernel, "tl.store")
    with pytest.raises(EmulationError, match=f"programs: store and store of p_out at {place}"):
        overlapping_kernel[(4,)](x, out, STEP=60, BLOCK=64)


def test_race_of_load_and_store(gpu: Driver) -> None:
    x = torch.randn(257)
    overlapping_kernel[(4,)](x[1:], x[1:], STEP=64, BLOCK=64)
    with pytest.raises(
        EmulationError, match=r"race between programs: (load and store|store and load) of p_\w+=p_"
    ):
        overlapping_kernel[(4,)](x[1:], x, STEP=64, BLOCK=64)


def test_racing_arguments_are_named(gpu: Driver) -> None:
    gpu.racing = {"overlapping_kernel": {"p_out": "each value depends on its place only"}}
    overlapping_kernel[(4,)](torch.zeros(256), torch.empty(256), STEP=60, BLOCK=64)


def without(pattern: str) -> Callable[[str, str], str]:
    """Return an edit that drops every instruction that matches."""

    def edit(name: str, ptx: str) -> str:
        edited, count = re.subn(pattern, "", ptx)
        assert count
        return edited

    return edit


def test_missing_barrier(gpu: Driver) -> None:
    gpu.edit = without(r"bar\.sync\s+0;")
    with pytest.raises(EmulationError, match=r"race in shared memory.* at test_arithmetic\.py:\d+"):
        multiply(torch.randn(64, 96).half(), torch.randn(96, 64).half())


def test_missing_wait_for_copies(gpu: Driver) -> None:
    gpu.edit = without(r"cp\.async\.wait_group\s+\d+;")
    try:
        out = multiply(torch.randn(64, 96).half(), torch.randn(96, 64).half())
    except EmulationError:
        return
    assert out.isnan().any()


def test_missing_wait_for_products(gpu: Driver) -> None:
    if gpu.capability != 90:
        pytest.skip("asynchronous products are of sm_90")
    gpu.edit = without(r"wgmma\.wait_group\.sync\.aligned \d+;")
    try:
        out = multiply(torch.randn(64, 96).half(), torch.randn(96, 64).half())
    except EmulationError:
        return
    assert out.isnan().any()


@triton.jit
def product_kernel(p_x, p_out, N: tl.constexpr):
    o = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    x = tl.load(p_x + o)
    tl.store(p_out + o, tl.dot(x, x + x))


def test_missing_proxy_fence(gpu: Driver) -> None:
    if gpu.capability != 90:
        pytest.skip("the matrix unit of sm_90 reads shared memory by itself")
    x = torch.randn(64, 64).half()
    out = torch.empty(64, 64)
    product_kernel[(1,)](x, out, N=64)
    gpu.edit = without(r"fence\.proxy\.async[^;]*;")
    place = at(product_kernel, "tl.dot")
    with pytest.raises(EmulationError, match=f"no proxy fence.* at {place}"):
        product_kernel[(1,)](x, out, N=64)


def test_unknown_instruction(gpu: Driver) -> None:
    gpu.edit = lambda name, ptx: ptx.replace("st.global", "frobnicate.global")
    place = at(copy_kernel, "tl.store")
    with pytest.raises(NotImplementedError, match=f"{place}: .*frobnicate.*unknown instruction"):
        copy_kernel[(1,)](torch.randn(128), torch.empty(128), 0, 128, BLOCK=128)


def test_too_much_shared_memory() -> None:
    """Each capability has its own limit."""
    from triton.runtime.errors import OutOfResources

    from tests.emulator.gpu import emulated

    a, b = torch.randn(64, 64).half(), torch.randn(64, 64).half()
    with emulated(90):
        multiply(a, b, stages=12)
    with emulated(86), pytest.raises(OutOfResources, match="shared memory"):
        multiply(a, b, stages=14)
