"""Small Triton kernels on the emulated GPU against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.emulator.driver import Driver
from tests.emulator.faults import EmulationError
from tests.emulator.machine import Launch, Program, run
from tests.emulator.memory import Argument
from tests.emulator.ptx import parse
from tests.kernels.accuracy import DTYPES, assert_accurate


@triton.jit
def integers_kernel(p_x, p_y, p_out, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x, y = tl.load(p_x + o, mask=m, other=0), tl.load(p_y + o, mask=m, other=1)
    tl.store(p_out + o, x // y, mask=m)
    tl.store(p_out + n + o, x % y, mask=m)
    tl.store(p_out + 2 * n + o, x << (y & 31), mask=m)
    tl.store(p_out + 3 * n + o, x >> (y & 31), mask=m)
    tl.store(p_out + 4 * n + o, tl.umulhi(x.to(tl.uint32), y.to(tl.uint32)).to(tl.int32), mask=m)
    tl.store(p_out + 5 * n + o, tl.minimum(x, y) ^ (~x | y), mask=m)


def test_integers(gpu: Driver) -> None:
    n = 500
    x, y = torch.randint(-(2**31), 2**31, (2, n), dtype=torch.int32)
    y[::3] = y[::3] % 100 + 1
    y[y == 0] = 1
    out = torch.empty(6, n, dtype=torch.int32)
    integers_kernel[(4,)](x, y, out, n, BLOCK=128)
    wide = [v.long() & 0xFFFFFFFF for v in (x, y)]
    # The high half of a product of 64 bits, which torch has not.
    high = [(a * b >> 32) for a, b in zip(*(v.tolist() for v in wide), strict=True)]
    expected = [
        torch.div(x, y, rounding_mode="trunc"),
        torch.fmod(x, y),
        x << (y & 31),
        x >> (y & 31),
        torch.tensor(high).int(),
        torch.minimum(x, y) ^ (~x | y),
    ]
    assert torch.equal(out, torch.stack(expected))


@triton.jit
def floats_kernel(p_x, p_out, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    x = tl.load(p_x + o, mask=m, other=0.0).to(tl.float32)
    y = tl.exp(x) + tl.sigmoid(x) * tl.math.erf(x) - tl.rsqrt(tl.abs(x) + 1)
    tl.store(p_out + o, tl.where(x != x, 2.0, y).to(p_out.dtype.element_ty), mask=m)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_floats(gpu: Driver, dtype: torch.dtype) -> None:
    x = (2 * torch.randn(1000)).to(dtype)
    x[7], x[8], x[9] = float("nan"), float("-inf"), 0.0

    def reference(x: torch.Tensor) -> torch.Tensor:
        y = x.exp() + x.sigmoid() * x.erf() - (x.abs() + 1).rsqrt()
        return torch.where(x.isnan(), 2.0, y)

    out = torch.empty_like(x)
    floats_kernel[(8,)](x, out, len(x), BLOCK=128)
    assert_accurate(out, reference(x.double()), reference(x.float()).to(dtype))


def test_rounding_is_to_nearest_even(gpu: Driver) -> None:
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1e-40, 3.4e38, 1.0])
    out = torch.empty(6, dtype=torch.bfloat16)
    copy_kernel[(1,)](x, out, 6, BLOCK=8)
    assert torch.equal(out.view(torch.int16), x.bfloat16().view(torch.int16))


@triton.jit
def copy_kernel(p_x, p_out, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_out + o, tl.load(p_x + o, mask=o < n).to(p_out.dtype.element_ty), mask=o < n)


@triton.jit
def reduce_kernel(p_x, p_sum, p_scan, N: tl.constexpr, M: tl.constexpr):
    o_n, o_m = tl.arange(0, N)[:, None], tl.arange(0, M)[None, :]
    x = tl.load(p_x + o_n * M + o_m)
    tl.store(p_sum + tl.arange(0, N), tl.sum(x, 1))
    tl.store(p_sum + N + tl.arange(0, M), tl.max(x, 0))
    tl.store(p_scan + o_n * M + o_m, tl.cumsum(x, 1))


@pytest.mark.parametrize("warps", [1, 4, 8])
def test_reductions_and_scans(gpu: Driver, warps: int) -> None:
    """They use shuffles, and shared memory between warps."""
    x = torch.randint(-1000, 1000, (32, 64), dtype=torch.int32)
    sums, scan = torch.empty(96, dtype=torch.int32), torch.empty_like(x)
    reduce_kernel[(1,)](x, sums, scan, N=32, M=64, num_warps=warps)
    assert torch.equal(sums, torch.cat([x.sum(1), x.amax(0)]).int())
    assert torch.equal(scan, x.cumsum(1).int())


@triton.jit
def matmul_kernel(
    p_a, p_b, p_out, M, N, K, s_am, s_ak, s_bk, s_bn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        a = tl.load(
            p_a + o_m[:, None] * s_am + o_k[None, :] * s_ak,
            mask=(o_m < M)[:, None] & (o_k < K)[None, :],
            other=0.0,
        )
        b = tl.load(
            p_b + o_k[:, None] * s_bk + o_n[None, :] * s_bn,
            mask=(o_k < K)[:, None] & (o_n < N)[None, :],
            other=0.0,
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    out = p_out + o_m[:, None] * N + o_n[None, :]
    tl.store(out, acc.to(p_out.dtype.element_ty), mask=(o_m < M)[:, None] & (o_n < N)[None, :])


def multiply(
    a: torch.Tensor, b: torch.Tensor, precision: str = "ieee", stages: int = 3
) -> torch.Tensor:
    """Multiply with tensor cores, in 64 x 64 x 32 tiles."""
    (m, k), n = a.shape, b.shape[1]
    out = torch.empty(m, n, dtype=a.dtype)
    grid = triton.cdiv(m, 64), triton.cdiv(n, 64)
    matmul_kernel[grid](
        a, b, out, m, n, k, *a.stride(), *b.stride(),
        BM=64, BN=64, BK=32, PRECISION=precision, num_stages=stages,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", [(128, 64, 128), (70, 50, 100)])
def test_matrix_product(
    gpu: Driver, dtype: torch.dtype, transposed: bool, size: tuple[int, int, int]
) -> None:
    """Copies in a pipeline, matrix loads with and without transposition, `mma` and `wgmma`."""
    m, n, k = size
    a = torch.randn(m, k).to(dtype)
    b = torch.randn(n, k).to(dtype).mT if transposed else torch.randn(k, n).to(dtype)
    assert_accurate(multiply(a, b), a.double() @ b.double(), a @ b)


def test_tf32(gpu: Driver) -> None:
    """One product of TF32 rounds to 11 bits; three keep the accuracy of float32."""
    a, b = torch.randn(64, 96), torch.randn(96, 64)
    exact = a.double() @ b.double()
    one, three = multiply(a, b, "tf32"), multiply(a, b, "tf32x3")
    error = (one - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < 2e-3
    assert_accurate(three, exact)


@triton.jit
def collatz_kernel(p_x, p_out, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    x = tl.load(p_x + pid).to(tl.int64)
    steps = 0
    while x != 1:
        if x % 2 == 0:  # noqa: SIM108 -- a branch is wanted
            x = x // 2
        else:
            x = 3 * x + 1
        steps += 1
    tl.store(p_out + pid, steps)


def test_programs_take_different_branches(gpu: Driver) -> None:
    x = torch.arange(1, 101)
    out = torch.empty(100, dtype=torch.int32)
    collatz_kernel[(100,)](x, out, 100, BLOCK=1)

    def steps(value: int) -> int:
        return 0 if value == 1 else 1 + steps(value // 2 if value % 2 == 0 else 3 * value + 1)

    assert out.tolist() == [steps(value) for value in x.tolist()]


@triton.jit
def histogram_kernel(p_x, p_count, p_last, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(p_x + o, mask=o < n, other=0)
    tl.atomic_add(p_count + x, tl.full((BLOCK,), 1, tl.int32), mask=o < n, sem="relaxed")
    tl.atomic_max(p_last + x, o, mask=o < n, sem="relaxed")


def test_atomics(gpu: Driver) -> None:
    x = torch.randint(0, 10, (300,), dtype=torch.int32)
    count, last = torch.zeros(10, dtype=torch.int32), torch.zeros(10, dtype=torch.int32)
    histogram_kernel[(3,)](x, count, last, 300, BLOCK=128)
    assert torch.equal(count, x.bincount(minlength=10).int())
    assert last.tolist() == [int((x == value).nonzero().max()) for value in range(10)]


PARTED = """
.visible .entry parted(
	.param .u64 .ptr .global .align 1 parted_param_0
)
.reqntid 64
{
	ld.param.b64 	%rd1, [parted_param_0];
	mov.u32 	%r1, %tid.x;
	mov.u32 	%r2, %ctaid.x;
	mul.wide.u32 	%rd2, %r1, 4;
	mad.wide.u32 	%rd2, %r2, 256, %rd2;
	add.s64 	%rd1, %rd1, %rd2;
	mov.b32 	%r3, 0;
	shl.b32 	%r4, %r2, 4;
	setp.lt.u32 	%p1, %r1, %r4;
	@%p1 bra 	$L__less;
$L__loop:
	add.s32 	%r3, %r3, 1;
	setp.lt.u32 	%p2, %r3, %r1;
	@%p2 bra 	$L__loop;
	bra.uni 	$L__end;
$L__less:
	add.s32 	%r3, %r1, 1000;
$L__end:
	bar.sync 	0;
	st.global.b32 	[%rd1], %r3;
	ret;
}
"""


def test_threads_take_different_branches() -> None:
    """They meet again before the barrier; programs 0 and 4 do not part."""
    out = torch.zeros(5, 64, dtype=torch.int32)
    address = np.array([[out.data_ptr()]], np.uint64)
    kernel = parse(PARTED)
    assert kernel.written == {"parted_param_0"}
    run(Program(kernel), Launch((5, 1, 1), [address], [Argument("out", out, True)], [], 0, 0))
    thread = torch.arange(64).expand(5, -1)
    less = thread < 16 * torch.arange(5)[:, None]
    assert torch.equal(out, torch.where(less, thread + 1000, thread.clamp(min=1)).int())


def test_barrier_of_some_threads() -> None:
    """A barrier that only one side of a branch reaches would not end."""
    out = torch.zeros(5, 64, dtype=torch.int32)
    address = np.array([[out.data_ptr()]], np.uint64)
    kernel = parse(PARTED.replace("$L__less:", "$L__less:\n\tbar.sync 	0;"))
    launch = Launch((5, 1, 1), [address], [Argument("out", out, True)], [], 0, 0)
    with pytest.raises(EmulationError, match="some threads of the program do not take part"):
        run(Program(kernel), launch)
