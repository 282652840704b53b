"""Run the tests of an op before its speed is reported: `python -m bench.verify memory_attention`.

On a GPU these are the tests at real sizes. Verdicts are stored and stay valid until the sources of
the op or of its tests change. Speed-ups are shown only for ops that passed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import fastsam2_kernels
from bench.state import read_state, update_state

__all__ = ["OPS", "Verdict", "main", "ops_of", "read_verdicts", "verify"]

_ROOT = Path(__file__).resolve().parent.parent
_KERNELS = Path(fastsam2_kernels.__path__[0])
_TESTS = _ROOT / "tests" / "kernels"
#: Every op with a kernel.
OPS = tuple(sorted(path.parent.name for path in _KERNELS.glob("*/kernel.py")))


@dataclass(frozen=True)
class Verdict:
    """Result of the tests of an op."""

    op: str
    passed: bool
    summary: str  #: last line of pytest's output
    sources: str  #: digest of the tested sources
    device: str


def ops_of(kind: str, name: str) -> tuple[str, ...]:
    """Return the ops that a row of this kind depends on: its own, or all of them."""
    if kind == "output":
        return ("mask_output",)
    return (name.partition("-")[0],) if kind in ("op", "tuning") else OPS


def read_verdicts(folder: Path, device: str) -> dict[str, Verdict]:
    """Return the valid verdicts in a folder for a type of device, `cpu` or `cuda`."""
    known = [Verdict(**entry) for entry in read_state(folder, "verdicts").values()]
    return {v.op: v for v in known if v.device == device and v.sources == _digest(v.op)}


def verify(
    ops: Iterable[str], folder: Path, device: str, limit: float = 600.0
) -> dict[str, Verdict]:
    """Run the tests of ops without a valid verdict in `folder`, and store the verdicts there.

    Args:
        device: `cpu`, where kernels are interpreted, or `cuda`.
        limit: seconds; tests that take longer have failed.
    """
    verdicts = read_verdicts(folder, device)
    missing = [op for op in ops if op not in verdicts]
    # On a GPU, most of the time is compilation, which runs in parallel.
    with ThreadPoolExecutor(8 if device == "cuda" else 1) as pool:
        for verdict in pool.map(lambda op: _run(op, device, limit), missing):
            verdicts[verdict.op] = verdict
            update_state(folder, "verdicts", {f"{verdict.op} on {device}": asdict(verdict)})
    return verdicts


def _run(op: str, device: str, limit: float) -> Verdict:
    sources = _digest(op)
    path = _TESTS / f"test_{op}.py"
    if not path.is_file():
        return Verdict(op, False, f"there is no {path.name}", sources, device)
    marks = ["-m", "cuda" if device == "cuda" else "not cuda"]
    command = [sys.executable, "-m", "pytest", str(path), "-q", "--no-header", "--tb=line", *marks]
    command += ["-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env=_environment(device), capture_output=True, text=True,
            timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Verdict(op, False, f"not done after {limit:.0f} s", sources, device)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    # A run in which every test is skipped does not pass.
    passed = done.returncode == 0 and " passed" in lines[-1]
    return Verdict(op, passed, lines[-1].strip("= "), sources, device)


def _environment(device: str) -> Mapping[str, str]:
    paths = [str(_ROOT), str(_ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


def _digest(op: str) -> str:
    """Return the digest of the op, of the shared modules, and of the tests."""
    files = [*(_KERNELS / op).glob("*.py"), *_KERNELS.glob("*.py"), *_TESTS.glob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def main(arguments: list[str] | None = None) -> int:
    """Run the tests and print the verdicts; return 1 if an op has not passed."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], prog="python -m bench.verify"
    )
    parser.add_argument("op", nargs="*", help=f"by default all: {', '.join(OPS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("bench_out"), help="folder of the verdicts"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds (default: 600)")
    args = parser.parse_args(arguments)
    unknown = [op for op in args.op if op not in OPS]
    if unknown:
        parser.error(f"no such op: {', '.join(unknown)}; there are {', '.join(OPS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    ops = args.op or OPS
    verdicts = verify(ops, args.out, torch.device(args.device).type, args.limit)
    for op in ops:
        print(f"{op:22} {'passed' if verdicts[op].passed else 'FAILED'}: {verdicts[op].summary}")
    return int(not all(verdicts[op].passed for op in ops))


if __name__ == "__main__":
    sys.exit(main())
