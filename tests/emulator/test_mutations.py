"""Drop one synchronisation at a time, and count how many the emulator misses.

Read in the PTX, those that it does not see are redundant in the calls here:

- After a loop Triton drains the pipeline (`cp.async.wait_group 0`, `wgmma.wait_group 0`) and puts a
  barrier, although the last copies were waited for in the loop, and the memory that is written next
  lies elsewhere or behind another barrier.
- Barriers and proxy fences between the copies that fill a pipeline: those in the loop follow before
  the data is used.
- The barrier at the end of a loop that runs once, as that over pointers does.
- `wgmma.wait_group` between two products into the same accumulators, which are in order anyway.
- In the Gluon kernel, one of two adjacent `bar.sync`: Triton puts one before `expect_tx` and
  one before the copy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from tests.emulator.cases import Case, cases
from tests.emulator.driver import Driver
from tests.emulator.faults import EmulationError
from tests.emulator.gpu import emulated
from tests.emulator.test_gluon import KERNEL, of

_SYNCHRONISATION = re.compile(
    r"bar\.sync\s+0;|cp\.async\.wait_group\s+\d+;|wgmma\.wait_group\.sync\.aligned \d+;"
    r"|fence\.proxy\.async[^;]*;|mbarrier\.try_wait[^;]*;\s*@!complete bra\.uni waitLoop;"
)


def kind_of(instruction: str) -> str:
    """Return the opcode without modifiers that do not change."""
    return re.match(r"mbarrier\.try_wait|[a-z_.]+", instruction)[0].removesuffix(".sync.aligned")  # type: ignore[index]


def dropping(kernel: str, place: re.Match[str]) -> Callable[[str, str], str]:
    def edit(name: str, ptx: str) -> str:
        return ptx[: place.start()] + ptx[place.end() :] if name == kernel else ptx

    return edit


def mutate(gpu: Driver, case: Case, kernel: str) -> tuple[Counter[str], Counter[str]]:
    """Drop each synchronisation of `kernel`; return how many there are, and how many are seen."""
    arguments, found = case.arguments(), {}

    def keep(name: str, ptx: str) -> str:
        found[name] = ptx
        return ptx

    gpu.edit = keep
    case.check(case.run(arguments), arguments)
    total: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for place in _SYNCHRONISATION.finditer(found[kernel]):
        gpu.edit = dropping(kernel, place)
        total[kind_of(place[0])] += 1
        try:
            case.check(case.run(arguments), arguments)
        except (EmulationError, AssertionError):
            seen[kind_of(place[0])] += 1
    return total, seen


#: Kernels that are changed, with the call that launches each.
_KERNELS = {
    "memory_keys_kernel": "memory_keys bfloat16 D128 T80",
    "_mlp_kernel": "cx_block bfloat16 C128",
    "memory_attention_kernel": "memory_attention bfloat16 D128 Q4096 T128 splits 1",
}

#: Least share that is seen, as a fraction.
_SEEN = {
    80: {"bar.sync": (36, 43), "cp.async.wait_group": (4, 8)},
    90: {
        "bar.sync": (28, 34),
        "cp.async.wait_group": (4, 8),
        "wgmma.wait_group": (6, 10),
        "fence.proxy.async.shared": (4, 8),
    },
}


#: The same for the Gluon kernel; with Triton 3.6 it has 18 `bar.sync`, with 3.7 12.
_SEEN_IN_GLUON = {
    "bar.sync": (3, 18),
    "wgmma.wait_group": (4, 5),
    "fence.proxy.async.shared": (2, 3),
    "mbarrier.try_wait": (4, 4),
}


def check(total: Counter[str], seen: Counter[str], least: dict[str, tuple[int, int]]) -> None:
    assert {*total} == {*least}
    for kind, (number, out_of) in least.items():
        assert seen[kind] * out_of >= number * total[kind], (seen, total)


@pytest.mark.slow
@pytest.mark.parametrize("capability", _SEEN, ids="sm_{}".format)
def test_missing_synchronisation_is_seen(capability: int) -> None:
    calls = {str(case): case for case in cases(capability)}
    total: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for kernel, call in _KERNELS.items():
        with emulated(capability) as gpu:
            torch.manual_seed(1)
            there, found = mutate(gpu, calls[call], kernel)
        total, seen = total + there, seen + found
    check(total, seen, _SEEN[capability])


@pytest.mark.slow
def test_missing_synchronisation_of_gluon_is_seen() -> None:
    """12 tiles of pages, so that buffers are used again, and two of pointers."""
    case = of([3], [70], 1, torch.bfloat16, tokens=256, dim=128, width=64)
    with emulated(90) as gpu:
        torch.manual_seed(1)
        check(*mutate(gpu, case, KERNEL), _SEEN_IN_GLUON)
