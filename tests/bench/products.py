"""Count FLOPs of compiled kernels and of their ops' formulas: `python -m tests.bench.products`.

This needs a process in which kernels are not interpreted.
"""

from __future__ import annotations

import json

import torch

from bench.calls import compiled, record
from bench.compiled_code import Loop
from bench.kernels.cases import CASES
from bench.model import GPUS, iterations

OBJECTS, GRID = 2, 64
#: What the formula counts and the tensor cores do not compute, for each pixel.
ELSEWHERE = {"cx_block": 2 * 49 * 256}


def main() -> None:
    counts = {}
    for gpu in (GPUS["A100"], GPUS["L4"], GPUS["H100"]):
        for name in ("memory_attention", "rope_attention", "memory_keys", "cx_block"):
            case = CASES[name](torch.device("meta"), torch.bfloat16, GRID, OBJECTS)
            calls = record(lambda: case.run("triton"), gpu.capability, gpu.processors)  # noqa: B023
            done = 0.0
            for call in calls:
                if call.kernel is not None:
                    result = compiled(call, gpu.capability)
                    parts: list[tuple[float, Loop | None]] = [(iterations(call), result.loop)]
                    parts.append((1, result.outside))
                    of_warp = sum(n * code.flops for n, code in parts if code is not None)
                    done += call.programs * result.num_warps * of_warp
            formula = case.work()[0] - ELSEWHERE.get(name, 0) * OBJECTS * GRID**2
            counts[f"{name} on {gpu.name}"] = (done, formula)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
