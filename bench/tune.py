"""Launch parameters by measurement: `python -m bench.tune --out DIR` on the GPU they are for.

Each candidate is first compared with the reference, in worker processes, which also fill the
compiler's cache; correct ones are timed. Those that beat the rule by more than noise are written to
`<gpu>.json`, to be reviewed and copied to `fastsam2_kernels/configs`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.kernels.cases import CASES
from bench.rows import NAMES, Row, append_rows, measured_on
from bench.scenarios import failed
from bench.timing import time_call
from fastsam2_kernels.dispatch import interpreting
from fastsam2_kernels.launch_config import gpu_slug

__all__ = ["CANDIDATES", "main", "tune"]

_TILES = {"block_m": (64, 128), "block_n": (32, 64, 128), "num_warps": (4, 8), "num_stages": (3, 4)}
#: Candidates of each case, the most valuable case first: all combinations of a group are tried.
#: Groups belong to different kernels and are tried independently.
CANDIDATES: dict[str, tuple[Mapping[str, Sequence[int]], ...]] = {
    "memory_attention": (_TILES,),
    "rope_attention": (_TILES,),
    "cx_block": (
        {"block_m": (64, 128), "block_h": (32, 64), "num_warps": (4, 8), "num_stages": (3, 4)},
        {"pixels": (8, 16, 32), "conv_warps": (4, 8)},
    ),
    "memory_keys": ({"block_t": (32, 64, 128), "block_c": (32, 64), "num_warps": (4, 8)},),
    "mask_downsample": (
        {"block": (64, 128), "num_warps": (4, 8)},
        {"norm_elements": (2048, 4096, 8192), "norm_warps": (4, 8)},
    ),
    "mask_output": ({"rows": (2, 4, 8), "columns": (16, 32, 64), "num_warps": (4, 8)},),
    "connected_components": (
        {"blocks": (256, 512, 1024), "block_warps": (4, 8)},
        {"join_blocks": (64, 128, 256)},
        {"pixels": (512, 1024, 2048)},
    ),
    "resize": ({"rows": (2, 4, 8), "columns": (64, 128, 256), "num_warps": (4, 8)},),
}
#: Maximum time of a launch, relative to the rule's, to replace it.
_GAIN = 0.97
_ERROR = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 2e-2}
Launch = dict[str, int]


@contextlib.contextmanager
def launching(op: str, launch: Launch, asked: list[dict[str, Any]]) -> Iterator[None]:
    """Launch an op with these parameters, as if measured; `asked` collects the calls."""
    tuning = importlib.import_module(f"fastsam2_kernels.{op}.tuning")

    def measured(_: str, device: torch.device, **call: Any) -> Launch:
        dtype = {"dtype": str(call["dtype"]).removeprefix("torch.")} if "dtype" in call else {}
        asked.append(call | dtype)
        return launch

    def forget() -> None:
        for choose in vars(tuning).values():
            if hasattr(choose, "cache_clear"):
                choose.cache_clear()

    forget()
    try:
        with mock.patch.object(tuning, "measured", measured):
            yield
    finally:
        forget()


def tune(
    names: Sequence[str],
    device: torch.device,
    dtype: str,
    image_size: int,
    objects: Sequence[int],
    seconds: float,
    workers: int = 8,
    most: int | None = None,
) -> tuple[dict[str, list[dict[str, Any]]], list[Row]]:
    """Return tables as `fastsam2_kernels.launch_config` reads them, and rows of the timings.

    Args:
        seconds: time limit of all ops together.
        workers: processes that check candidates.
        most: maximum number of candidates of a group; None for all.
    """
    end = time.monotonic() + seconds
    tables: dict[str, list[dict[str, Any]]] = {}
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for i, name in enumerate(names):
            now = time.monotonic()
            share = max(0.0, end - now) / (len(names) - i)
            about = (name, str(device), dtype, image_size)
            tries = [list(_products(group))[:most] for group in CANDIDATES[name]]
            launches = [{}, *itertools.chain(*tries)]
            jobs = {_key(x): pool.submit(_check, about, x, min(objects)) for x in launches}
            wrong = {key: _fault(job, now + 0.6 * share) for key, job in jobs.items()}
            wrong = {key: fault for key, fault in wrong.items() if fault}
            try:
                tables |= _time(about, objects, tries, wrong, now + share, rows)
            except Exception as error:  # a failing op must not lose the others
                rows.append(Row("tuning", name, "none", note=failed(error)))
    return tables, rows


def _fault(job: Future[str], until: float) -> str:
    """Return the result of a check; a crash ends the pool but not the tuning."""
    try:
        return job.result(timeout=max(0.1, until - time.monotonic()))
    except Exception as error:
        job.cancel()
        return failed(error)


def _products(group: Mapping[str, Sequence[int]]) -> Iterator[Launch]:
    for values in itertools.product(*group.values()):
        yield dict(zip(group, values, strict=True))


def _key(launch: Launch) -> str:
    return json.dumps(launch, sort_keys=True)


@torch.inference_mode()
def _check(about: tuple[str, str, str, int], launch: Launch, objects: int) -> str:
    """Return the fault of a launch; empty if there is none."""
    name, device, dtype, image_size = about
    case = CASES[name](torch.device(device), NAMES[dtype], image_size // 16, objects)
    try:
        with launching(case.op, launch, []):
            found = case.run("triton")
    except Exception as error:  # too much shared memory, or another compiler error
        return failed(error)
    distance = _distance(found, case.run("reference"))
    return "" if distance <= _ERROR[dtype] else f"wrong: relative error {distance:.1e}"


def _distance(found: Any, expected: Any) -> float:
    """Return the largest relative distance of tensors or tuples of tensors."""
    if isinstance(found, Tensor):
        a, b = found.double(), expected.double()
        return float((a - b).norm() / b.norm().clamp(min=1e-30)) if a.isfinite().all() else math.inf
    return max(_distance(a, b) for a, b in zip(found, expected, strict=True))


@torch.inference_mode()
def _time(
    about: tuple[str, str, str, int],
    objects: Sequence[int],
    tries: Sequence[Sequence[Launch]],
    wrong: Mapping[str, str],
    deadline: float,
    rows: list[Row],
) -> dict[str, list[dict[str, Any]]]:
    """Time the candidates of an op and return its table."""
    name, where, dtype, image_size = about
    device = torch.device(where)
    cases = {n: CASES[name](device, NAMES[dtype], image_size // 16, n) for n in objects}
    op = cases[objects[0]].op
    calls: dict[str, dict[str, Any]] = {}
    times: dict[tuple[str, str], list[float]] = {}

    def measure(launch: Launch, kind: str) -> None:
        """Time a launch for all numbers of objects, grouped by the call that `tuned` sees."""
        if _key(launch) in wrong:
            rows.append(Row("tuning", name, kind, note=f"{_key(launch)} {wrong[_key(launch)]}"))
            return
        for n, case in cases.items():
            asked: list[dict[str, Any]] = []
            with launching(op, launch, asked):
                found = time_call(lambda case=case: case.run("triton"), device)  # type: ignore[misc]
            if not asked:
                raise RuntimeError("this op takes no measured launch here")
            when = _key(asked[-1])
            calls[when] = asked[-1]
            times.setdefault((when, _key(launch)), []).append(found.p50)
            row = Row("tuning", name, kind, "", image_size, n, dtype, note=_key(launch))
            rows.append(replace(row, **found.fields, **measured_on(device)))

    measure({}, "rule")
    best: dict[str, Launch] = {}
    for group in tries:
        for launch in group:
            if time.monotonic() < deadline:
                measure(launch, "tried")
        for when in calls:
            rule = _mean(times[when, "{}"])
            known = [x for x in group if (when, _key(x)) in times]
            fastest = min(known, key=lambda x: _mean(times[when, _key(x)]), default=None)
            if fastest is not None and _mean(times[when, _key(fastest)]) < _GAIN * rule:
                best[when] = best.get(when, {}) | fastest
    # Check the combination of the groups, with all numbers of objects.
    right = {
        when: launch
        for when, launch in best.items()
        if not any(_check(about, launch, n) for n in objects)
    }
    return {op: [{"when": calls[when], "launch": launch} for when, launch in right.items()]}


def _mean(times: Sequence[float]) -> float:
    """Return the geometric mean, in which every number of objects has the same weight."""
    return math.exp(sum(map(math.log, times)) / len(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], prog="python -m bench.tune"
    )
    parser.add_argument("--out", type=Path, default=Path("bench_out"), help="folder to write to")
    parser.add_argument("--op", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--dtype", default="bf16", choices=NAMES)
    parser.add_argument("--image-size", type=int, default=1024, help="pixels, a multiple of 64")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="time limit of all ops together"
    )
    parser.add_argument("--workers", type=int, default=8, help="processes that check candidates")
    parser.add_argument("--most", type=int, help="maximum candidates of a group (default: all)")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not interpreting():
        parser.error("there is no GPU; set TRITON_INTERPRET=1 for a dry run without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    tables, rows = tune(
        args.op, device, args.dtype, args.image_size, args.objects, args.seconds, args.workers,
        args.most,
    )  # fmt: skip
    append_rows(args.out / "rows.csv", rows)
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "interpreter"
    path = args.out / f"{gpu_slug(gpu)}.json"
    path.write_text(json.dumps({op: table for op, table in tables.items() if table}, indent=1))
    for op, table in tables.items():
        for entry in table:
            print(f"{op}: {entry['launch']} when {entry['when']}")
    print(f"{len(rows)} rows, {path}")


if __name__ == "__main__":
    main()
