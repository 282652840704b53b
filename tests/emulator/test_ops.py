"""The shipped kernels of every op, compiled and executed, against the float64 reference."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam2_kernels.connected_components import connected_components
from fastsam2_kernels.mask_output import mask_output
from tests.emulator import CAPABILITIES
from tests.emulator.cases import cases, mapped
from tests.emulator.driver import Driver
from tests.emulator.faults import EmulationError
from tests.emulator.gpu import OPS, RACING_ARGUMENTS, emulated
from tests.kernels import test_connected_components as components
from tests.kernels import test_mask_output as masks
from tests.kernels.accuracy import DTYPES

CASES = {(capability, str(case)): case for capability in CAPABILITIES for case in cases(capability)}

#: One call of each op, odd where that matters, in the quick part.
QUICK = [
    "memory_keys bfloat16 D128 T37",
    "memory_attention bfloat16 D128 Q256 T101 splits 3",
    "rope_attention bfloat16 D128 L131 splits 2",
    "cx_block bfloat16 C128",
    "mask_downsample bfloat16 logits",
]


def every_case() -> list:
    return [
        pytest.param(
            capability,
            name,
            id=f"sm_{capability} {name}",
            marks=[] if name in QUICK and capability in (80, 90) else [pytest.mark.slow],
        )
        for capability, name in CASES
    ]


@pytest.mark.parametrize(("capability", "name"), every_case())
def test_shipped_launch(capability: int, name: str) -> None:
    case = CASES[capability, name]
    with emulated(capability):
        arguments = case.arguments()
        case.check(case.run(arguments), arguments)


@pytest.mark.parametrize("size", masks.SIZES[:1])
def test_mask_output(gpu: Driver, size: tuple[tuple[int, int], tuple[int, int]]) -> None:
    masks.check(masks.blobs(3, size[0]), size[1], 0.5, "triton")
    assert {*gpu.launches} == {"mask_output_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", masks.SIZES)
def test_mask_output_of_any_size(
    gpu: Driver, dtype: torch.dtype, size: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    masks.check(masks.blobs(3, size[0], dtype), size[1], 0.5, "triton")


@pytest.mark.parametrize("name", ["spiral"])
def test_components(gpu: Driver, name: str) -> None:
    components.check(components.shapes()[name], "triton")
    assert len({*gpu.launches}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", components.shapes())
def test_components_of_any_shape(gpu: Driver, name: str) -> None:
    components.check(components.shapes()[name], "triton")


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.3, 0.5, 0.7])
def test_components_of_random_masks(gpu: Driver, density: float) -> None:
    mask = np.random.default_rng(0).random((2, 1, 61, 70)) < density
    for seed in range(3):
        gpu.seed = seed
        components.check(mask, "triton")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", RACING_ARGUMENTS)
def test_named_races_happen(gpu: Driver, kernel: str) -> None:
    """Without its name each of them is a fault, so none is named in vain."""
    gpu.racing = {name: x for name, x in RACING_ARGUMENTS.items() if name != kernel}
    mask = np.random.default_rng(0).random((2, 1, 61, 70)) < 0.7
    with pytest.raises(EmulationError, match=rf"{kernel}:\s+race between programs"):
        components.check(mask, "triton")


#: Calls of the ops that are not compared with a float64 reference.
OTHERS = {
    "mask_output": lambda op: op(torch.randn(2, 5, 6), (9, 17), impl="triton"),
    "connected_components": lambda op: op(torch.rand(1, 9, 9) < 0.5, impl="triton"),
    "resize": lambda op: op(
        torch.zeros(1, 9, 9, 3, dtype=torch.uint8), (5, 17), (0.5,) * 3, (0.2,) * 3, impl="triton"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_is_covered(op: str, capability: int) -> None:
    """The cases above launch each kernel that the op ships."""
    module = importlib.import_module(f"fastsam2_kernels.{op}.kernel")
    shipped = {variant.kernel.__name__ for variant in module.variants(capability)}
    with emulated(capability) as gpu:
        for case in [case for (at, _), case in CASES.items() if at == capability]:
            if case.op == op and not shipped <= {*gpu.launches}:
                case.run(case.arguments())
        if op in OTHERS:
            OTHERS[op](getattr(importlib.import_module(f"fastsam2_kernels.{op}"), op))
        assert shipped <= {*gpu.launches}


#: One odd size of each op, in both families of formats.
SOME = [
    f"{op} {dtype} {label}"
    for dtype in ("bfloat16", "float32")
    for op, labels in {
        "memory_keys": ["D128 T37"],
        "memory_attention": ["D128 Q256 T101 splits 1", "D128 Q256 T101 splits 3"],
        "rope_attention": ["D128 L131 splits 1", "D128 L131 splits 2"],
        "cx_block": ["C128"],
        "mask_downsample": ["logits"],
    }.items()
    for label in labels
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_order_of_programs_does_not_matter(gpu: Driver, name: str) -> None:
    case = CASES[gpu.capability, name]
    arguments = case.arguments()
    found = []
    for seed in range(3):
        gpu.seed = seed
        found.append(case.defined(case.run(arguments), arguments))
    for other in found[1:]:
        assert torch.equal(found[0], other)


def shifted(x: Tensor) -> Tensor:
    """Return a copy that starts one element past an aligned address."""
    room = x.new_zeros(x.numel() + 64 // x.element_size())
    first = -room.data_ptr() % 64 // x.element_size() + 1
    copy = room[first : first + x.numel()].view(x.shape)
    return copy.copy_(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_unaligned_tensors(gpu: Driver, name: str) -> None:
    """Each tensor in turn, and all of them, start one element past an aligned address."""
    case = CASES[gpu.capability, name]
    arguments = case.arguments()
    count = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return x

    mapped(arguments, counted)
    for chosen in range(-1, count):
        number = iter(range(count))

        def some(x: Tensor, chosen: int = chosen, number: object = number) -> Tensor:
            return shifted(x) if next(number) == chosen or chosen < 0 else x

        moved = mapped(arguments, some)
        case.check(case.run(moved), moved)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unaligned_masks(gpu: Driver, dtype: torch.dtype) -> None:
    logits = masks.blobs(2, (16, 16), dtype)
    for x, y in zip(
        mask_output(logits, (33, 45), impl="triton"),
        mask_output(shifted(logits), (33, 45), impl="triton"),
        strict=True,
    ):
        assert torch.equal(x, y)
    mask = torch.rand(1, 30, 41) < 0.5
    for x, y in zip(
        connected_components(mask, impl="triton"),
        connected_components(shifted(mask), impl="triton"),
        strict=True,
    ):
        assert torch.equal(x, y)
