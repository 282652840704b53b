"""Launch parameters by measurement: `python -m bench.tune --out DIR` on the GPU they are for.

Each candidate is first run against the reference, in processes of their own, which also fill the
compiler's cache; what is right is timed. What beats the rule by more than noise is written as
`<gpu>.json`, for a person to look at and put into `fastsam2_kernels/configs`.
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

_TILES = {"block_m": (64, 128), "block_n": (32, 64, 128), "num_warps": (4, 8), "num_stages": (2, 3)}
#: Of each case, the most valuable first: parameters that are tried with each other. Those of
#: several groups belong to different kernels, so that each group is tried alone.
CANDIDATES: dict[str, tuple[Mapping[str, Sequence[int]], ...]] = {
    "memory_attention": (_TILES,),
    "rope_attention": (_TILES,),
    "cx_block": (
        {"block_m": (64, 128), "block_h": (32, 64), "num_warps": (4, 8), "num_stages": (2, 3)},
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
}
#: A launch must be that much faster than the rule's.
_GAIN = 0.97
_ERROR = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 2e-2}
Launch = dict[str, int]


@contextlib.contextmanager
def launching(op: str, launch: Launch, asked: list[dict[str, Any]]) -> Iterator[None]:
    """Have an op launched so, as if that had been measured; `asked`: for which calls."""
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
    """Tables as `fastsam2_kernels.launch_config` reads them, and the rows of what was timed.

    Args:
        seconds: what all ops share.
        workers: processes that check candidates.
        most: candidates of a group.
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
            except Exception as error:  # one op that fails must not lose the others
                rows.append(Row("tuning", name, "none", note=failed(error)))
    return tables, rows


def _fault(job: Future[str], until: float) -> str:
    """What a check has found. What kills its process ends the pool, not the tuning."""
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
    """What is wrong with a launch; empty if nothing is."""
    name, device, dtype, image_size = about
    case = CASES[name](torch.device(device), NAMES[dtype], image_size // 16, objects)
    try:
        with launching(case.op, launch, []):
            found = case.run("triton")
    except Exception as error:  # too much shared memory, or whatever else the compiler says
        return failed(error)
    distance = _distance(found, case.run("reference"))
    return "" if distance <= _ERROR[dtype] else f"wrong: relative error {distance:.1e}"


def _distance(found: Any, expected: Any) -> float:
    """Of tensors or tuples of them, the largest relative distance."""
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
    """The table of an op."""
    name, where, dtype, image_size = about
    device = torch.device(where)
    cases = {n: CASES[name](device, NAMES[dtype], image_size // 16, n) for n in objects}
    op = cases[objects[0]].op
    calls: dict[str, dict[str, Any]] = {}
    times: dict[tuple[str, str], list[float]] = {}

    def measure(launch: Launch, kind: str) -> None:
        """Time it for all numbers of objects; those that are told apart count apart."""
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
    # Groups were tried alone, and checked with few objects.
    right = {
        when: launch
        for when, launch in best.items()
        if not any(_check(about, launch, n) for n in objects)
    }
    return {op: [{"when": calls[when], "launch": launch} for when, launch in right.items()]}


def _mean(times: Sequence[float]) -> float:
    """The geometric mean, in which every number of objects weighs alike."""
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
    parser.add_argument("--seconds", type=float, default=300.0, help="what all ops share")
    parser.add_argument("--workers", type=int, default=8, help="processes that check candidates")
    parser.add_argument("--most", type=int, help="candidates of a group; by default all")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not interpreting():
        parser.error("there is no GPU; TRITON_INTERPRET=1 goes through the motions without one")
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
