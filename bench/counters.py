"""Hardware counters of memory attention by Nsight Compute: `python -m bench.counters --out DIR`.

Writes DIR/ncu.txt: use of the tensor cores, memory traffic, and reasons for which warps stall.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.kernels.cases import CASES

__all__ = ["main"]

_SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "WarpStateStats",
    "Occupancy",
)


def _run(objects: int) -> None:
    """Run the op, once to compile it and once to be measured."""
    case = CASES["memory_attention"](torch.device("cuda"), torch.bfloat16, 64, objects)
    for _ in range(2):
        case.run("auto")
    torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if the counters cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench.counters", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--run", type=int, help="run the op for so many objects, unmeasured")
    args = parser.parse_args(arguments)
    if args.run:
        _run(args.run)
        return 0
    ncu = shutil.which("ncu")
    if ncu is None:
        print("ncu is not installed: no hardware counters")
        return 1
    status = 0
    with (args.out / "ncu.txt").open("w", encoding="utf-8") as file:
        for objects in args.objects:
            command = [
                ncu, "--clock-control", "none", "--kernel-name", "regex:memory_attention_kernel",
                "--launch-skip", "1", "--launch-count", "1",
                *(word for section in _SECTIONS for word in ("--section", section)),
                sys.executable, "-m", "bench.counters", "--out", str(args.out),
                "--run", str(objects),
            ]  # fmt: skip
            file.write(f"\n{objects} objects\n")
            file.flush()
            status |= subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, check=False
            ).returncode
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
