"""The support matrix of docs/support.md: `nox -l` lists it, `nox` runs it.

`nox -s "tests-3.12(torch='2.11.0')" -- tests/engine` runs one row, or a part of the tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

#: Python and torch; torch requires its own version of Triton. Oldest, middle, newest.
MATRIX = (("3.10", "2.7.1"), ("3.12", "2.11.0"), ("3.13", "2.13.0"))
#: Pinned for one version of torch.
FREE = ("torch", "torchvision", "triton", "setuptools", "numpy")
#: Triton's interpreter fails on NumPy 2.4 before Triton 3.7.
NUMPY = {"2.13.0": "numpy"}


@nox.session
@nox.parametrize(("python", "torch"), MATRIX)
def tests(session: nox.Session, torch: str) -> None:
    """Run the tests with a version of Python and of torch, other packages as pinned."""
    pins = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = Path(session.create_tmp()).resolve() / "constraints.txt"
    constraints.write_text("\n".join(p for p in pins if p.partition("==")[0] not in FREE))
    # As in the Makefile: torch first, the reference without its dependencies.
    constrained = ("--constraint", str(constraints))
    numpy = NUMPY.get(torch, "numpy<2.4")
    session.install(*constrained, f"torch=={torch}", "torchvision", numpy, "setuptools", "wheel")
    session.install(*constrained, "--no-build-isolation", "--editable", ".[test]")
    session.install(
        *constrained, "--no-build-isolation", "--no-deps", "sam2", env={"SAM2_BUILD_CUDA": "0"}
    )
    session.run(
        "python", "-c",
        "import torch, triton; print('torch', torch.__version__, 'triton', triton.__version__)",
    )  # fmt: skip
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    session.run("python", "-m", "pytest", *session.posargs, env=environment)
