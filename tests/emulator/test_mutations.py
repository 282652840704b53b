"""Does the emulator see a synchronisation that is missing? Drop one at a time and count.

What is not seen, read in the PTX:

- A `bar.sync` beside another one, or between two loads, orders nothing that these kernels need:
  Triton puts one before and after each use of scratch memory in shared memory. Those not seen are
  redundant.
- A `wgmma.wait_group` whose products are waited for again by a later one, before anything reads
  the accumulators or writes the operands.
- A proxy fence after copies whose target was fenced by the one before.
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

_SYNCHRONISATION = re.compile(
    r"bar\.sync\s+0;|cp\.async\.wait_group\s+\d+;|wgmma\.wait_group\.sync\.aligned \d+;"
    r"|fence\.proxy\.async[^;]*;"
)


def kind_of(instruction: str) -> str:
    return re.match(r"[a-z_.]+", instruction)[0].removesuffix(".sync.aligned")  # type: ignore[index]


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
    "memory_keys_kernel": "memory_keys {} D128 T80",
    "_mlp_kernel": "cx_block {} C128",
    "memory_attention_kernel": "memory_attention {} D128 Q4096 T128 splits 1",
}

#: Least numbers seen, of how many.
_SEEN = {
    80: {"bar.sync": (30, 33)},
    90: {"bar.sync": (23, 27), "wgmma.wait_group": (6, 10), "fence.proxy.async": (4, 5)},
}


@pytest.mark.slow
@pytest.mark.parametrize("capability", _SEEN, ids="sm_{}".format)
def test_missing_synchronisation_is_seen(
    capability: int, record_property: Callable[[str, object], None]
) -> None:
    calls = {str(case): case for case in cases(capability)}
    total: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for kernel, call in _KERNELS.items():
        for dtype in ("bfloat16", "float32"):
            with emulated(capability) as gpu:
                torch.manual_seed(1)
                there, found = mutate(gpu, calls[call.format(dtype)], kernel)
            total, seen = total + there, seen + found
    record_property("seen", {kind: (seen[kind], total[kind]) for kind in total})
    for kind, (least, of) in _SEEN[capability].items():
        assert seen[kind] / total[kind] >= least / of, (seen, total)
