"""Run all GPU benchmarks in one call: `python -m bench.gpu --out DIR`.

The parts run in order of importance, each in its own process with its own time limit, in under nine
minutes: correctness, 1, 8 and 16 objects beside `sam2` compiled, hardware counters, then the rest.
Finished parts are recorded: a second call continues where the first stopped. A failing part does
not stop the others. DIR gets at most nine files.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from bench import report
from bench.rows import Row, append_rows, commit, conditions, measured_on, read_rows
from bench.state import read_state, update_state

__all__ = ["Part", "main", "parts"]

_ROOT = Path(__file__).resolve().parent.parent
#: Seconds reserved for the report.
_REPORT = 15.0


@dataclass(frozen=True)
class Part:
    """Benchmark module with arguments and a time limit."""

    name: str
    seconds: float  #: time limit
    command: tuple[str, ...]  #: module and arguments
    environment: tuple[tuple[str, str], ...] = ()
    least: float = 10.0  #: seconds that must be left to start it


def parts(out: Path, device: str, quick: bool) -> list[Part]:
    """Return the parts in order; with `quick`, at tiny sizes that only test that they run."""
    where = ("--out", str(out), "--device", device)
    tune = ("bench.tune", "--out", str(out))
    run = ("bench.run", *where, "--no-verify")
    if quick:
        small = (*run, "--dtype", "fp32", "--objects", "1", "--image-size", "64", "--frames", "2")
        interpreted = (("TRITON_INTERPRET", "1"),) if device == "cpu" else ()
        return [
            Part("tests", inf, ("bench.verify", "memory_keys", *where, "--limit", "1e6")),
            Part("steady", inf, ("bench.steady", *where, "--model", "nano", "--objects", "1")),
            Part("roofline", inf, (*small, "roof")),
            Part("ladder", inf, (*small, "ladder", "--impl", "sam2", "folded, batched",
                 "+ graphs")),
            Part("scenarios", inf, (*small, "track", "video", "memory", "--impl", "fastsam2")),
            Part("kernels", inf, (*small, "op", "stage", "--impl", "kernel", "fastsam2")),
            Part("tuning", inf, (*tune, "--op", "memory_keys", "--dtype",
                 "fp32", "--image-size", "64", "--objects", "1", "--workers", "1", "--most", "1"),
                 interpreted),
            Part("compiled", inf, (*small, "track", "--impl", "sam2 vos_optimized")),
            Part("cold", inf, (*small, "cold", "--impl", "fastsam2", "--model", "nano")),
        ]  # fmt: skip
    tiny, large = ("--model", "sam2.1-tiny"), ("--model", "sam2.1-large")
    few, many = ("--objects", "1", "8", "16"), ("--objects", "1", "4", "8", "16", "64", "128")
    rungs = ("folded, batched", "+ kernels", "+ encoding ahead", "+ graphs")
    return [
        Part("tests", 80, ("bench.verify", *where, "--limit", "70")),
        Part("headline", 60, (*run, "track", *few, "--impl", "fastsam2", "sam2")),
        Part("steady", 40, ("bench.steady", *where)),
        # The compiler takes minutes of it.
        Part("compiled", 280, (*run, "track", *few, "--impl", "sam2 vos_optimized"), least=180),
        Part("counters", 60, ("bench.counters", "--out", str(out))),
        Part("roofline", 30, (*run, "roof", "--dtype", "bf16", "fp32")),
        Part("ladder", 130, (*run, "ladder", *few, "--impl", "sam2", *rungs)),
        Part("many", 60, (*run, "track", *tiny, *many, "--impl", "fastsam2")),
        Part("kernels", 60, (*run, "op", "stage", *few, "--impl", "kernel", "gluon", "reference",
             "sam2", "fastsam2")),
        Part("large", 60, (*run, "track", *large, *many, "--impl", "fastsam2")),
        Part("tuning", 100, (*tune, "--seconds", "80", *few), least=60),
        Part("files", 40, (*run, "video", "--objects", "1", "8", "--impl", "sam2", "fastsam2")),
        Part("cold", 40, (*run, "cold", "--objects", "1", "--impl", "sam2", "fastsam2")),
        Part("top rung", 300, (*run, "ladder", *few, "--impl", "+ compiled"), least=180),
        Part("transformers", 60, (*run, "track", *few, "--impl", "transformers")),
        Part("peers", 90, (*run, "track", "--objects", "4", "64", "128", "--impl", "sam2")),
        Part("peers large", 60, (*run, "track", *large, *few, "--impl", "sam2", "transformers")),
    ]  # fmt: skip


def _run(part: Part, seconds: float, log: Path) -> str:
    """Run a part; return `done`, or how it failed."""
    paths = [str(_ROOT), str(_ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # For copies of the sources without git history.
        "FASTSAM2_COMMIT": commit(),
        **dict(part.environment),
    }
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n### {part.name}: {' '.join(part.command)}\n")
        file.flush()
        # A process group of its own, so that its children are killed with it.
        process = subprocess.Popen(
            [sys.executable, "-m", *part.command], cwd=_ROOT, env=environment, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"stopped after {seconds:.0f} s"
    return "done" if status == 0 else f"failed with status {status}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the unfinished parts; return 1 if one failed."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="output folder; created if missing")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument("--part", nargs="+", help="run these parts only, even if done")
    parser.add_argument("--seconds", type=float, default=520.0, help="time limit (default: 520)")
    parser.add_argument("--commit", help="commit to record, if there is no git")
    args = parser.parse_args(arguments)
    if args.device not in ("cuda", "cpu"):
        parser.error(f"--device must be cuda or cpu, not {args.device}")
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu requires --quick; use `python -m bench.run` to measure a CPU")
    if args.device == "cuda" and not has_gpu:
        parser.error(f"PyTorch {torch.__version__} finds no GPU; use --device cpu --quick")
    if args.commit:
        os.environ["FASTSAM2_COMMIT"] = args.commit
        commit.cache_clear()
    end = time.monotonic() + args.seconds
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    todo = parts(out, args.device, args.quick)
    names = [part.name for part in todo]
    if args.part and not set(args.part) <= set(names):
        unknown = ", ".join(sorted(set(args.part) - set(names)))
        parser.error(f"unknown part: {unknown}; choose from {', '.join(names)}")
    where = measured_on(torch.device(args.device))
    print(conditions([Row("", "", "", **where)]), flush=True)
    for part in todo:
        if args.part and part.name not in args.part:
            continue
        if not args.part and read_state(out, "parts").get(part.name) == "done":
            print(f"{part.name:14} done earlier")
            continue
        left = end - _REPORT - time.monotonic()
        begin = time.monotonic()
        how = "no time left"
        if left >= part.least:
            how = _run(part, min(part.seconds, left), out / "log.txt")
        update_state(out, "parts", {part.name: how})
        spent = time.monotonic() - begin
        row = Row("part", part.name, "bench.gpu", p50_ms=1e3 * spent, note=how, **where)
        append_rows(out / "rows.csv", [row])
        print(f"{part.name:14} {how}, {spent:.0f} s", flush=True)
    ended = read_state(out, "parts")
    return max(_report(out), int(any(ended.get(name) != "done" for name in names)))


def _report(out: Path) -> int:
    """Write tables and plots of all rows, and print a summary; return 1 if there are none."""
    if not (out / "rows.csv").is_file():
        print(f"nothing was measured; see {out / 'log.txt'}")
        return 1
    with (out / "log.txt").open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "bench.report", str(out)]
        try:
            subprocess.run(
                command, cwd=_ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=60, check=False
            )
        except subprocess.TimeoutExpired:
            file.write("\nno report after 60 s\n")
    for row in report.latest(read_rows(out / "rows.csv")):
        measured = row.kind in ("roof", "track", "accuracy") and row.p50_ms
        if measured or row.kind == "steady" or row.iou is not None:
            title = f"{row.model} {row.objects or ''}".strip() or row.name
            print(f"{title:20} {row.dtype:5} {row.impl:20} {report.brief(row)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
