"""The Gluon kernel of memory_attention, compiled for sm_90 and executed.

Its launches are those of the Triton kernel in half precision, so the calls are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam2_kernels.launch_config import HALF
from fastsam2_kernels.memory_attention import memory_attention
from tests.emulator.cases import Case, cases, mapped
from tests.emulator.driver import Driver
from tests.emulator.gpu import emulated
from tests.emulator.test_ops import shifted
from tests.kernels.test_memory_attention import RAGGED, inputs

gluon_kernel = pytest.importorskip("fastsam2_kernels.memory_attention.gluon_kernel")

KERNEL = "memory_attention_gluon_kernel"


class GluonCase(Case):
    def run(self, arguments: Sequence[Any]) -> Tensor:
        return gluon_kernel.launch(*arguments, params=self.launch, splits=self.splits)


CASES = {
    str(case): GluonCase(**vars(case))
    for case in cases(90)
    if case.op == "memory_attention" and "float32" not in case.label
}
ODD = "memory_attention bfloat16 D128 Q256 T101 splits 3"


@pytest.fixture
def gpu() -> Iterator[Driver]:
    """Emulated GPU of sm_90."""
    with emulated(90) as driver:
        yield driver


def check(gpu: Driver, case: Case) -> None:
    arguments = case.arguments()
    case.check(case.run(arguments), arguments)
    assert KERNEL in gpu.launches


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x == ODD else [pytest.mark.slow]) for x in CASES]
)
def test_shipped_launch(gpu: Driver, name: str) -> None:
    check(gpu, CASES[name])


def of(
    reads: Sequence[int], pointers: Sequence[int], splits: int, dtype: torch.dtype, **sizes: int
) -> GluonCase:
    """Return a call with 64 x 64 tiles."""
    case = CASES[ODD]
    return replace(case, arguments=lambda: inputs(reads, pointers, dtype, **sizes), splits=splits)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("tokens", [256, 200])
@pytest.mark.parametrize("splits", [1, 2])
def test_every_buffer_is_used_again(
    gpu: Driver, dtype: torch.dtype, tokens: int, splits: int
) -> None:
    """12 tiles through rings of 3 buffers: barriers go through both phases twice."""
    check(gpu, of([3], [5], splits, dtype, tokens=tokens, dim=128, width=64))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("splits", [1, 3, 8])
def test_ragged(gpu: Driver, dtype: torch.dtype, splits: int) -> None:
    """Objects without pages, without pointers, or without both; splits without tiles."""
    check(gpu, of([3, 0, 1, 2, 0], [4, 5, 0, 70, 0], splits, dtype, tokens=101, width=64))
    check(gpu, of(*RAGGED, splits, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [32, 64, 128, 256])
@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_widths(gpu: Driver, dim: int, width: int) -> None:
    check(gpu, of([2], [3], 1, torch.float16, tokens=75, dim=dim, width=width))


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 64])
def test_few_tokens(gpu: Driver, tokens: int) -> None:
    check(gpu, of([5, 1], [0, 0], 2, torch.bfloat16, tokens=tokens, queries=1))


@pytest.mark.slow
def test_queries_shared_by_the_objects(gpu: Driver) -> None:
    q, *rest = inputs([2, 1, 3], [4, 0, 2], torch.bfloat16)
    case = of([], [], 2, torch.bfloat16)
    check(gpu, replace(case, arguments=lambda: (q[:1].expand(3, -1, -1), *rest)))


@pytest.mark.slow
def test_order_of_programs_does_not_matter(gpu: Driver) -> None:
    case = CASES[ODD]
    arguments = case.arguments()
    found = []
    for gpu.seed in range(3):
        found.append(case.run(arguments))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_public_function(gpu: Driver) -> None:
    arguments = inputs([1], [2], torch.bfloat16, width=64)
    out = memory_attention(*arguments, impl="gluon")
    CASES[ODD].check(out, arguments)
    assert KERNEL in gpu.launches


@pytest.mark.slow
def test_unaligned_tensors(gpu: Driver) -> None:
    """Bulk copies need aligned pages; every other tensor may start anywhere."""
    case = CASES[ODD]
    arguments = case.arguments()
    memory = arguments[1]
    moved = mapped(
        arguments, lambda x: x if x is memory.keys or x is memory.latents else shifted(x)
    )
    case.check(case.run(moved), moved)


@pytest.mark.parametrize(
    ("name", "change", "kind", "match"),
    [
        ("keys", shifted, ValueError, "keys aligned to 16 bytes"),
        ("latents", shifted, ValueError, "latents aligned to 16 bytes"),
        ("latents", lambda x: x[:0], ValueError, "latents of 0 rows"),
        ("latents", Tensor.bfloat16, TypeError, r"float16, not torch\.bfloat16"),
    ],
)
def test_memory_that_it_does_not_take(
    gpu: Driver, name: str, change: Callable[[Tensor], Tensor], kind: type, match: str
) -> None:
    q, memory, *rest = inputs([1], [2], torch.float16)
    memory = replace(memory, **{name: change(getattr(memory, name))})
    with pytest.raises(kind, match=match):
        memory_attention(q, memory, *rest, impl="gluon")


def test_float32_and_widths_that_it_does_not_take(gpu: Driver) -> None:
    with pytest.raises(TypeError, match="float32"):
        memory_attention(*inputs([1], [2], torch.float32), impl="gluon")
    with pytest.raises(ValueError, match="96"):
        memory_attention(*inputs([1], [2], torch.float16, dim=96), impl="gluon")


@pytest.mark.parametrize("capability", [80, 89])
def test_other_gpus(capability: int) -> None:
    with (
        emulated(capability),
        pytest.raises(RuntimeError, match=rf"capability 9\.0, not {capability / 10}"),
    ):
        memory_attention(*inputs([1], [2], torch.float16), impl="gluon")
