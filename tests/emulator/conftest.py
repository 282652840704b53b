"""Selection of tests: an emulated GPU needs a process whose kernels are not interpreted.

`TRITON_INTERPRET=0 pytest tests/emulator` runs them; other processes collect only the test that
starts such a process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from fastsam2_kernels.dispatch import interpreting
from tests.emulator import CAPABILITIES

if TYPE_CHECKING:
    from tests.emulator.driver import Driver

if interpreting():
    collect_ignore_glob = ["test_[!p]*"]
elif torch.cuda.is_available():
    collect_ignore_glob = ["test_*"]  # kernels run on the GPU
else:
    collect_ignore_glob = ["test_process.py"]


#: The instructions of sm_86 and sm_89 are those of sm_80.
_PARAMETERS = [
    pytest.param(x, marks=[pytest.mark.slow] if x in (86, 89) else []) for x in CAPABILITIES
]


@pytest.fixture(params=_PARAMETERS, ids="sm_{}".format)
def gpu(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Emulated GPU of each capability; `impl="triton"` runs kernels of CPU tensors on it."""
    from tests.emulator.gpu import emulated  # not with every Triton: see test_process.py

    with emulated(request.param) as driver:
        yield driver
