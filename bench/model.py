"""Predict the time of a frame on a GPU from the compiled code: `python -m bench.model`.

Instructions and bytes of a kernel's loop, times its iterations, give the cycles for which a program
keeps each unit of a multiprocessor busy. Operations of PyTorch take their bound by the roofline.
`docs/model-of-time.md` states the assumptions. Nothing is measured, and no GPU is needed.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.calls import Call, compiled, record
from bench.compile import Result
from bench.compiled_code import Loop
from bench.kernels.cases import CASES
from bench.rows import Row, append_rows, measured_on
from bench.work import STEP, Stages, our_stages
from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.plan import Plan
from fastsam2_kernels.launch_config import SHARED_MEMORY
from tests.kernels.launching import launching_for

__all__ = [
    "GPUS",
    "Gpu",
    "HEADING",
    "Units",
    "alone",
    "busy",
    "iterations",
    "main",
    "residents",
    "seconds",
    "versions",
]


@dataclass(frozen=True)
class Gpu:
    """Published rates of a GPU."""

    name: str
    capability: int
    processors: int  #: multiprocessors
    clock: float  #: cycles per second to which `flops` refers
    flops: float  #: per second, dense products of bfloat16 with float32 sums
    memory: float  #: bytes per second
    l2: float  #: bytes per cycle and multiprocessor
    warps: int  #: most on a multiprocessor


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 80, 108, 1.41e9, 312e12, 2.039e12, 47, 64),
        Gpu("L4", 89, 58, 2.04e9, 121e12, 0.3e12, 16, 48),
        Gpu("RTX 4090", 89, 128, 2.52e9, 165.2e12, 1.008e12, 16, 48),
        Gpu("H100", 90, 132, 1.83e9, 989.4e12, 3.35e12, 32, 64),
        Gpu("H200", 90, 132, 1.83e9, 989.4e12, 4.8e12, 32, 64),
    )
}
_LATENCY = 600  #: cycles until a load arrives
_LAUNCH = 2e-6  #: seconds between two kernels of a CUDA graph
ENCODER = "image encoder"
_FRAME = (ENCODER, STEP, "resize", "mask_output")  #: parts of a frame
HEADING = "## Predictions"
_MODEL, _SIZE, _OBJECTS = "sam2.1-tiny", 1024, (1, 8, 16, 128)

#: Iterations of the loop with the most work, by kernel, from the arguments and the grid.
_ITERATIONS: dict[str, Callable[[dict[str, Any], tuple[int, ...]], float]] = {
    "memory_attention_kernel": lambda a, grid: a["K"] * ceil(a["HW"] / a["BLOCK_N"]) / grid[2],
    "_attend_kernel": lambda a, grid: ceil(a["L"] / a["BN"]) / grid[1],
    "memory_keys_kernel": lambda a, _: a["L"] * a["D"] / 2 / a["BLOCK_C"],
    "_mlp_kernel": lambda a, _: 4 * a["C"] / a["BH"],
    "_conv_norm_kernel": lambda *_: 7,
    "combine_kernel": lambda a, _: a["splits"],
    "mask_output_kernel": lambda a, _: a["n"],
    "resize_axis_kernel": lambda a, _: a["K"],
}


class Units(NamedTuple):
    """Cycles for which code of one program keeps the units of a multiprocessor busy."""

    tensor: float  #: tensor cores
    l1: float  #: L1 cache and shared memory: 128 bytes a cycle
    issue: float  #: instructions: 4 warps a cycle
    special: float  #: exponentials: 16 threads a cycle
    l2: float  #: asynchronous copies from the L2 cache


def busy(code: Loop, warps: int, gpu: Gpu) -> Units:
    """Return the cycles that a program of `warps` warps takes of each unit, for `code` once."""
    return Units(
        tensor=code.flops * warps * gpu.processors * gpu.clock / gpu.flops,
        l1=code.warp_bytes * warps / 128,
        issue=code.instructions * warps / 4,
        special=code.exponentials * warps * 32 / 16,
        l2=code.copied * warps * 32 / gpu.l2,
    )


def alone(code: Loop, units: Units) -> float:
    """Return the cycles of `code` in a program that has a multiprocessor to itself.

    Products and other instructions overlap if the code computes while a product is under way;
    copies overlap with both if some stay in flight.
    """
    products, others = max(units.tensor, units.l1), max(units.issue, units.special)
    cycles = max(products, others) if code.pipelined or code.overlapped else products + others
    if code.in_flight:
        return max(cycles, units.l2)
    return cycles + units.l2 + (_LATENCY if code.copies or code.global_loads else 0)


def residents(result: Result, gpu: Gpu) -> int:
    """Return the number of programs that fit on a multiprocessor: 1 KB of shared memory each is
    the system's, and a warp takes registers by 256."""
    registers = ceil(result.registers * 32 / 256) * 256 * result.num_warps
    shared = (SHARED_MEMORY[gpu.capability] + 1024) // (result.shared + 1024)
    return min(65536 // registers, shared, gpu.warps // result.num_warps)


def seconds(call: Call, gpu: Gpu) -> float:
    """Return the time of one call."""
    least = max(call.flops / gpu.flops, call.moved / gpu.memory)
    if call.kernel is not None:
        least = max(least, _cycles(call, gpu) / gpu.clock)
    return _LAUNCH + least


def _cycles(call: Call, gpu: Gpu) -> float:
    """Return the cycles of a launch, wave after wave; the last one may be smaller."""
    result = compiled(call, gpu.capability)
    parts = [(1.0, result.outside), (iterations(call), result.loop)]
    each = [(n, code, busy(code, result.num_warps, gpu)) for n, code in parts if code is not None]
    one = sum(n * alone(code, units) for n, code, units in each)
    busiest = max(sum(n * units[i] for n, _, units in each) for i in range(len(Units._fields)))
    most = residents(result, gpu)
    waves, rest = divmod(call.programs, gpu.processors * most)
    # Programs that share a multiprocessor overlap as far as its busiest unit allows.
    cycles = waves * max(one, most * busiest)
    return cycles + (max(one, ceil(rest / gpu.processors) * busiest) if rest else 0.0)


def iterations(call: Call) -> float:
    """Return how often a program runs its loop with the most work, on average."""
    count = _ITERATIONS.get(call.kernel.__name__)
    return 1.0 if count is None else count(call.arguments, call.grid)


@functools.cache
def _stages(objects: int) -> Stages:
    plan = Plan(dtype=torch.bfloat16, impl="triton")
    with launching_for(90, 1):
        model = build_sam2_video_predictor(_MODEL, device="cpu", plan=plan).to("meta")
    stages = our_stages(model, objects)
    meta = torch.device("meta")
    cases = {k: make(meta, torch.bfloat16, _SIZE // 16, objects) for k, make in CASES.items()}
    ops = {k: functools.partial(case.run, "triton") for k, case in cases.items()}
    return {ENCODER: stages[ENCODER], STEP: stages[STEP], **ops}


@functools.cache
def frame_calls(objects: int, capability: int, processors: int) -> dict[str, list[Call]]:
    """Return the calls of the image encoder, of the track step, and of each op called once as
    `bench.ops` does."""
    return {k: record(run, capability, processors) for k, run in _stages(objects).items()}


def predicted_rows(gpu: Gpu, objects: int) -> list[Row]:
    """Return rows with the kinds and names of those that `bench.gpu` measures."""
    found = frame_calls(objects, gpu.capability, gpu.processors)
    times = {name: _milliseconds(calls, gpu) for name, calls in found.items()}
    times["frame"] = sum(times[name] for name in _FRAME)
    kinds = {ENCODER: "stage", STEP: "stage", "frame": "track"}
    where = measured_on(torch.device("cpu")) | {"device": gpu.name}
    return [
        Row(
            kinds.get(name, "op"), name, "predicted", model=_MODEL, image_size=_SIZE,
            objects=objects, dtype="bf16", p50_ms=time, **where,
        )
        for name, time in times.items()
    ]  # fmt: skip


def _milliseconds(calls: Iterable[Call], gpu: Gpu) -> float:
    return 1e3 * sum(seconds(call, gpu) for call in calls)


def versions() -> str:
    """Return a sentence with the versions on which predictions depend."""
    on = measured_on(torch.device("cpu"))
    return f"Kernels compiled by Triton {on['triton']}; operations of PyTorch {on['torch']}."


def tables(gpus: Sequence[Gpu], objects: Sequence[int]) -> str:
    """Return all predictions as Markdown; GPUs with the same cycles share a table of them."""
    parts = [versions()]
    for gpu in gpus:
        loops = _loops(gpu, objects[-1])
        parts += [f"### {gpu.name}", *([] if loops in parts else [loops]), _times(gpu, objects)]
    return "\n\n".join(parts)


def _loops(gpu: Gpu, objects: int) -> str:
    """Return the table of the cycles of an iteration."""
    found = frame_calls(objects, gpu.capability, gpu.processors)
    calls = [c for name in CASES for c in found[name] if c.kernel is not None]
    results = {
        (r.op, r.kernel, r.label): r for c in calls if (r := compiled(c, gpu.capability)).loop
    }
    lines = []
    for r in results.values():
        assert r.loop is not None
        units, most = busy(r.loop, r.num_warps, gpu), residents(r, gpu)
        one = alone(r.loop, units)
        share = most * units.tensor / max(one, most * max(units))
        cells = [f"{x:.0f}" for x in (*units, one, most)]
        lines.append([r.op, r.kernel.lstrip("_"), r.label, *cells, f"{100 * share:.0f} %"])
    header = [
        "op", "kernel", "launch", "tensor cores", "L1, shared", "instructions", "exponentials",
        "L2", "alone", "programs", "of tensor peak",
    ]  # fmt: skip
    return _markdown(header, 3, lines)


def _times(gpu: Gpu, objects: Sequence[int]) -> str:
    """Return the table of the times of one call of each op, and of a frame and its parts."""
    columns = []
    for n in objects:
        step = frame_calls(n, gpu.capability, gpu.processors)[STEP]
        rows = {row.name: row.p50_ms for row in predicted_rows(gpu, n)}
        column = {(op, "call"): rows.pop(op) for op in CASES}
        for op in dict.fromkeys(call.op for call in step):
            time = _milliseconds([call for call in step if call.op == op], gpu)
            column[op or "other operations", "track step"] = time
        columns.append(column | {(name, "frame"): time for name, time in rows.items()})
    lines = [[*key, *(_number(column[key]) for column in columns)] for key in columns[0]]
    return _markdown(["ms", "of a", *map(str, objects)], 2, lines)


def _number(x: float | None) -> str:
    assert x is not None
    return f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 100 else f"{x:.0f}"


def _markdown(header: Sequence[str], texts: int, lines: Iterable[Sequence[str]]) -> str:
    rule = "|---" * texts + "|---:" * (len(header) - texts) + "|"
    rows = ["| " + " | ".join(line) + " |" for line in (header, *lines)]
    return "\n".join([rows[0], rule, *rows[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and store them."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], prog="python -m bench.model"
    )
    parser.add_argument("--gpu", nargs="+", default=list(GPUS), choices=GPUS)
    parser.add_argument("--objects", type=int, nargs="+", default=_OBJECTS)
    parser.add_argument("--write", type=Path, help=f"page whose text after {HEADING!r} to replace")
    parser.add_argument("--out", type=Path, help="folder whose rows.csv to extend")
    args = parser.parse_args(arguments)
    gpus = [GPUS[name] for name in args.gpu]
    found = tables(gpus, args.objects)
    print(found)
    if args.write:
        before = args.write.read_text().partition(HEADING)[0]
        args.write.write_text(f"{before}{HEADING}\n\n{found}\n")
    if args.out:
        rows = [row for gpu in gpus for n in args.objects for row in predicted_rows(gpu, n)]
        append_rows(args.out / "rows.csv", rows)


if __name__ == "__main__":
    main()
