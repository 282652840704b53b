"""The model of time against calculations by hand, and its page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import model
from bench.calls import Call
from bench.compile import Result
from bench.compiled_code import Loop
from bench.model import GPUS, alone, busy, residents, seconds

#: One tile of memory attention on Hopper: 128 queries, 64 tokens, keys of 256, latents of 64.
TILE = Loop(
    matrix=20, waits=2, shared_loads=0, global_loads=2, copies=10, exponentials=34, overlapped=0,
    in_flight=160, unoverlapped=False, instructions=350, copied=160, flops=2 * 128 * 64 * 320 // 8,
    warp_bytes=23552, pipelined=False,
)  # fmt: skip
EMPTY = Loop(0, 0, 0, 0, 0, 0, 0, 0, False, 0, 0, 0, 0, False)
RESULT = Result(
    "memory_attention", "kernel", "bf16", 90, 8, 3, True, False, registers=128, shared=188_416,
    loop=TILE, outside=EMPTY,
)  # fmt: skip
H100 = GPUS["H100"]


def test_units_of_a_tile() -> None:
    units = busy(TILE, 8, H100)
    # A multiprocessor multiplies 4,096 numbers and adds them in two cycles.
    assert units.tensor == pytest.approx(2 * 128 * 64 * 320 / 4096, rel=2e-3)
    # Both warp groups read 64 queries and the keys; latents; the copies of 40 KB.
    assert units.l1 == (2 * (64 + 64) * 256 * 2 + 2 * 64 * 64 * 2 + 64 * 320 * 2) / 128
    assert units.issue == 350 * 8 / 4
    assert units.special == (128 * 64 + 2 * 256) / 16
    assert units.l2 == 64 * 320 * 2 / 32


def test_units_overlap_as_the_code_lets_them() -> None:
    units = busy(TILE, 8, H100)
    assert alone(TILE, units) == units.l1 + units.issue
    assert alone(replace(TILE, pipelined=True), units) == units.l1
    waiting = alone(replace(TILE, in_flight=0), units)
    assert waiting > units.l1 + units.issue + units.l2
    slow = replace(H100, l2=1)
    units = busy(TILE, 8, slow)
    assert alone(TILE, units) == units.l2


def test_programs_of_a_multiprocessor() -> None:
    assert residents(RESULT, H100) == 1, "by shared memory"
    assert residents(replace(RESULT, shared=1024), H100) == 2, "by registers"
    assert residents(replace(RESULT, shared=1024, registers=16), H100) == 8, "by warps"


def test_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    def time(programs: int, result: Result = RESULT) -> float:
        monkeypatch.setattr(model, "compiled", lambda *_: result)
        arguments = {"K": 7, "HW": 4096, "BLOCK_N": 64}
        kernel = SimpleNamespace(__name__="memory_attention_kernel")
        call = Call("memory_attention", 0, 0, kernel, (programs, 1, 2), arguments)
        return seconds(call, H100)

    start = time(0)
    tiles = 7 * 64 / 2  # in two parts
    wave = tiles * alone(TILE, busy(TILE, 8, H100)) / H100.clock
    assert time(1) - start == pytest.approx(wave)
    assert time(66) - start == pytest.approx(wave), "a program on each multiprocessor"
    assert time(67) - start == pytest.approx(2 * wave)
    # Two programs overlap, but share the unit that is the busiest.
    small = replace(RESULT, shared=1024)
    busiest = tiles * max(busy(TILE, 8, H100)) / H100.clock
    assert time(67, small) - start == pytest.approx(max(wave, 2 * busiest))


def test_memory_bounds_a_call() -> None:
    start = seconds(Call("", 0), H100)
    assert seconds(Call("", 335), H100) - start == pytest.approx(1e-10)
    assert seconds(Call("", 335, 10**12), H100) - start == pytest.approx(1e12 / H100.flops)


def _run(*script: str) -> str:
    """Run a module in a process whose kernels are not interpreted."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", *script]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.slow
def test_compiled_products_are_those_of_the_op() -> None:
    """FLOPs of the compiled loop, times its iterations, against the formula of the op."""
    counts = json.loads(_run("tests.bench.products"))
    assert len(counts) == 12
    for name, (compiled, formula) in counts.items():
        # Each part of memory attention counts the tile of pointers.
        assert compiled == pytest.approx(formula, rel=1e-2 if "memory_att" in name else 0), name


@pytest.mark.slow
def test_page_has_the_predictions() -> None:
    page = (Path(__file__).parents[2] / "docs" / "model-of-time.md").read_text()
    if model.versions() not in page:
        pytest.skip("the page was made with other versions")
    assert page.endswith(f"{model.HEADING}\n\n{_run('bench.model')}")
