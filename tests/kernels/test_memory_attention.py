"""memory_attention: the kernels and the other paths against the float64 reference."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsam2_kernels.dispatch import gluon_misfit
from fastsam2_kernels.launch_config import HALF
from fastsam2_kernels.memory_attention import PagedMemory, memory_attention
from fastsam2_kernels.memory_attention.cpu import memory_attention_cpu
from fastsam2_kernels.memory_attention.reference import memory_attention_reference
from fastsam2_kernels.memory_attention.sdpa import memory_attention_sdpa
from tests.kernels.accuracy import DTYPES, assert_accurate, error, poisoned

pytest.importorskip("triton")
from fastsam2_kernels.memory_attention.kernel import launch
from fastsam2_kernels.memory_attention.tuning import Launch, choose_splits

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILE = Launch(32, 32, 4, 2)
Inputs = tuple[Tensor, PagedMemory, Tensor, Tensor, float]
PATHS: list[Callable[..., Tensor]] = [
    memory_attention_reference,
    memory_attention_cpu,
    memory_attention_sdpa,
    partial(launch, params=TILE, splits=2),
]


def inputs(
    num_reads: Sequence[int],
    num_pointers: Sequence[int],
    dtype: torch.dtype,
    *,
    queries: int = 40,
    tokens: int = 49,
    dim: int = 64,
    width: int = 16,
    size: float = 1.0,
) -> Inputs:
    """Return random arguments; everything that no object reads is NaN."""
    objects, most = len(num_reads), max([*num_reads, 1])
    pointers = max([*num_pointers, 0])

    def random(*shape: int) -> Tensor:
        return (size * torch.randn(shape, device=DEVICE)).to(dtype)

    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    keys, latents = random(objects * most + 1, tokens, dim), random(6, tokens, width)
    pointer_keys, pointer_latents = random(objects, pointers, dim), random(objects, pointers, width)
    reads = torch.randperm(objects * most)[: objects * most].int().reshape(objects, most)
    slots = torch.randint(0, 5, (objects, most), dtype=torch.int32)
    keys[-1], latents[-1] = float("nan"), float("nan")
    for n, (read, pointer) in enumerate(zip(num_reads, num_pointers, strict=True)):
        reads[n, read:], slots[n, read:] = objects * most, 5
        pointer_keys[n, pointer:], pointer_latents[n, pointer:] = float("nan"), float("nan")
    angle = 100 * torch.randn(queries, dim // 2, device=DEVICE)
    memory = PagedMemory(
        keys,
        latents,
        slots.to(DEVICE),
        reads.to(DEVICE),
        index(num_reads),
        pointer_keys,
        pointer_latents,
        index(num_pointers),
    )
    return random(objects, queries, dim), memory, angle.cos(), angle.sin(), dim**-0.5


def mapped(arguments: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    q, memory, cos, sin, scale = arguments
    paged = PagedMemory.from_flat([change(x) for x in memory.flat()])
    return change(q), paged, change(cos), change(sin), scale


def exact(arguments: Inputs) -> Tensor:
    wide = mapped(arguments, lambda x: x.double() if x.is_floating_point() else x)
    return memory_attention_reference(*wide)


def check(arguments: Inputs, splits: int = 1, params: Launch = TILE) -> None:
    plain = memory_attention_reference(*arguments)
    out = launch(*arguments, out=poisoned(plain), params=params, splits=splits)
    assert_accurate(out, exact(arguments), plain)


RAGGED = ([3, 0, 1, 2, 0], [4, 5, 0, 33, 0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_ragged(dtype: torch.dtype, splits: int) -> None:
    """Objects with both, with pointers alone, with memory alone, and with neither."""
    arguments = inputs(*RAGGED, dtype)
    check(arguments, splits)
    assert not exact(arguments)[-1].any(), "no memory gives zeros"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_triton(dtype: torch.dtype) -> None:
    arguments = inputs(*RAGGED, dtype)
    plain = memory_attention_reference(*arguments)
    assert_accurate(memory_attention_sdpa(*arguments), exact(arguments), plain)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 16, 45, 64])
@pytest.mark.parametrize("splits", [1, 2, 32])
def test_grids_and_splits(tokens: int, splits: int) -> None:
    check(inputs([2, 1], [0, 4], torch.float32, tokens=tokens, queries=tokens), splits)


@pytest.mark.parametrize("dim", [128, 256])
def test_widths_of_the_models(dim: int) -> None:
    params = Launch(64, 16, 4, 2)
    check(inputs([2], [8], torch.float32, dim=dim, width=64, tokens=100), 2, params)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_large_logits(dtype: torch.dtype, splits: int) -> None:
    *tensors, _ = inputs([2, 1], [4, 0], dtype, size=40.0)
    largest = float(0.25 * tensors[0].double().flatten(0, 1).norm(dim=1).max() ** 2)
    assert largest > 1e4
    arguments: Inputs = (*tensors, 1e4 / largest)
    plain = memory_attention_reference(*arguments)
    out = launch(*arguments, out=poisoned(plain), params=TILE, splits=splits)
    # Rounding of a float32 logit of 1e4; the weight changes by its exponential.
    rounding = torch.finfo(torch.float32).eps / 2 * 1e4
    expected = exact(arguments)
    assert error(out, expected) <= max(2 * error(plain, expected), rounding)


def test_queries_shared_by_the_objects() -> None:
    q, *rest = inputs([2, 1, 3], [4, 0, 2], torch.float32)
    check((q[:1].expand(3, -1, -1), *rest), 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_schedule_for_the_cpu(dtype: torch.dtype) -> None:
    arguments = mapped(inputs(*RAGGED, dtype, queries=600, tokens=1100), Tensor.cpu)
    plain = memory_attention_reference(*arguments)
    assert_accurate(memory_attention_cpu(*arguments), exact(arguments), plain)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_latents_of_another_dtype(stored: torch.dtype, dtype: torch.dtype) -> None:
    """Every path converts latents to the dtype of the queries before anything else."""
    q, memory, *rest = inputs(*RAGGED, dtype)
    latents = memory.latents.to(stored)
    for path in PATHS:
        there = partial(Tensor.to, device="cpu" if path is memory_attention_cpu else DEVICE)
        out, expected = (
            path(*mapped((q, replace(memory, latents=values), *rest), there))
            for values in (latents, latents.to(dtype))
        )
        assert out.dtype == dtype
        assert torch.equal(out, expected)


@pytest.mark.slow
def test_offsets_into_a_large_pool() -> None:
    """Slots past 2^31 elements; untouched pages of the pool take no physical memory."""
    q, memory, *rest = inputs(*RAGGED, torch.float32)
    latents = memory.latents.bfloat16()
    pool = latents.new_empty(2**31 // latents[0].numel() + 7, *latents.shape[1:])
    pool[-len(latents) :] = latents
    far = replace(memory, latents=pool, slots=memory.slots + len(pool) - len(latents))
    out, expected = (
        launch(q, x, *rest, params=TILE) for x in (far, replace(memory, latents=latents))
    )
    assert torch.equal(out, expected)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    num_reads=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    most_pointers=st.integers(0, 40),
    queries=st.integers(1, 70),
    tokens=st.integers(1, 70),
    splits=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(
    num_reads: list[int],
    most_pointers: int,
    queries: int,
    tokens: int,
    splits: int,
    dtype: torch.dtype,
) -> None:
    num_pointers = [max(0, most_pointers - 3 * n) for n in range(len(num_reads))]
    check(inputs(num_reads, num_pointers, dtype, queries=queries, tokens=tokens), splits)


def test_registered_op() -> None:
    q, memory, *rest = inputs([2, 1], [4, 0], torch.float32)
    torch.library.opcheck(torch.ops.fastsam2.memory_attention, (q, memory.flat(), *rest))


def test_compiles_once_as_memory_and_objects_grow() -> None:
    compiled = torch.compile(memory_attention, fullgraph=True, backend="aot_eager", dynamic=True)
    for step, (reads, pointers) in enumerate(
        (([3, 5], [2, 4]), ([4, 7], [4, 8]), ([9] * 3, [11] * 3))
    ):
        arguments = inputs(reads, pointers, torch.float32)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            out = compiled(*arguments)
        torch.testing.assert_close(out, memory_attention_reference(*arguments))


def test_builds_its_memory_in_a_compiled_graph() -> None:
    """The engine constructs the record within its compiled step."""
    q, memory, *rest = inputs([2, 1], [4, 0], torch.float32)

    def step(q: Tensor, tensors: list[Tensor], *rest: Tensor | float) -> Tensor:
        return memory_attention(q, PagedMemory(*tensors), *rest)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = memory_attention(q, memory, *rest)
    torch.testing.assert_close(compiled(q, memory.flat(), *rest), expected)


@pytest.mark.parametrize(
    ("name", "change", "kind", "match"),
    [
        ("keys", lambda x: x.half(), TypeError, "float16"),
        ("latents", lambda x: x[:, :5], ValueError, "keys"),
        ("latents", lambda x: x.int(), TypeError, "floating"),
        ("slots", lambda x: x.long(), TypeError, "int64"),
        ("num_reads", lambda x: x[:1], ValueError, r"\(1,\)"),
        ("pointer_keys", lambda x: x[..., :32], ValueError, "pointer_keys"),
    ],
)
def test_bad_memory(name, change, kind, match) -> None:  # type: ignore[no-untyped-def]
    q, memory, *rest = inputs([2, 1], [4, 0], torch.float32)
    with pytest.raises(kind, match=match):
        memory_attention(q, replace(memory, **{name: change(getattr(memory, name))}), *rest)


@pytest.mark.parametrize(
    ("place", "change", "kind", "match"),
    [
        (0, lambda x: x[0], ValueError, r"\(40, 64\)"),
        (0, lambda x: x[..., ::2], ValueError, "strides"),
        (2, lambda x: x.double(), TypeError, "float64"),
        (3, lambda x: x.to("meta"), ValueError, "meta"),
    ],
)
def test_bad_input(place, change, kind, match) -> None:  # type: ignore[no-untyped-def]
    arguments = list(inputs([2, 1], [4, 0], torch.float32))
    arguments[place] = change(arguments[place])
    with pytest.raises(kind, match=match):
        memory_attention(*arguments)


def test_triton_raises_where_the_kernel_does_not_fit() -> None:
    odd = inputs([2], [4], torch.float32, dim=96)
    with pytest.raises(ValueError, match="96"):
        memory_attention(*odd, impl="triton")
    assert_accurate(memory_attention(*odd), exact(odd))
    wide = inputs([2], [4], torch.float64)
    with pytest.raises(TypeError, match="float64"):
        memory_attention(*wide, impl="triton")
    assert memory_attention(*wide).dtype == torch.float64


def test_gluon_raises_where_it_cannot_run() -> None:
    arguments = inputs([2], [4], torch.float16)
    if gluon_misfit(arguments[0]) is None:
        pytest.skip("runs on this GPU")
    with pytest.raises(RuntimeError, match=r"impl='gluon' needs (Triton|a CUDA tensor|a GPU)"):
        memory_attention(*arguments, impl="gluon")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_must_be_positive(scale: float) -> None:
    *tensors, _ = inputs([1], [0], torch.float32)
    with pytest.raises(ValueError, match=str(scale)):
        memory_attention(*tensors, scale)


def test_splits_fill_the_gpu() -> None:
    assert choose_splits(32, 449, 132) >= 4
    assert choose_splits(132 * 8, 449, 132) == 1
    assert choose_splits(1, 1, 132) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_ragged_in_gluon(dtype: torch.dtype, splits: int) -> None:
    """On a GPU; elsewhere `tests/emulator/test_gluon.py` runs it."""
    arguments = inputs(*RAGGED, dtype, queries=150, tokens=300, dim=256, width=64)
    if misfit := gluon_misfit(arguments[0]):
        pytest.skip(str(misfit))
    gluon_kernel = importlib.import_module("fastsam2_kernels.memory_attention.gluon_kernel")
    plain = memory_attention_reference(*arguments)
    out = gluon_kernel.launch(*arguments, out=poisoned(plain), splits=splits)
    assert_accurate(out, exact(arguments), plain)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("impl", "dtype"),
    [*(("triton", dtype) for dtype in DTYPES), *(("gluon", dtype) for dtype in HALF)],
)
def test_real_size(impl: Literal["triton", "gluon"], dtype: torch.dtype) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("the interpreter would take minutes")
    arguments = inputs([7, 3], [64, 0], dtype, queries=4096, tokens=4096, dim=256, width=64)
    if impl == "gluon" and (misfit := gluon_misfit(arguments[0])):
        pytest.skip(str(misfit))
    out = memory_attention(*arguments, impl=impl)
    assert_accurate(out, exact(arguments), memory_attention_reference(*arguments))
