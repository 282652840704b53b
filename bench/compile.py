"""Compile every kernel for every supported GPU and check its resources; no GPU is needed.

`python -m bench.compile --check` prints a table, and fails if a kernel does not compile, exceeds
the shared memory of the GPU, spills registers, multiplies without tensor cores, or has a fault that
`Result.faults` reads from the compiled code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastsam2_kernels
from bench import compiled_code
from bench.compiled_code import Loop
from fastsam2_kernels.aot import Variant
from fastsam2_kernels.dispatch import has_gluon
from fastsam2_kernels.launch_config import CAPABILITIES, SHARED_MEMORY

__all__ = ["Result", "compile_variant", "main", "markdown"]


#: Bytes that a kernel may spill. Float32 self-attention of width 256, which runs only on request,
#: has no smaller tile, and with more warps it computes each product twice.
_ALLOWED_SPILLS = {
    ("rope_attention", "fp32 D256 16x16"): 24,
    ("rope_attention", "fp32 D256 16x16 split"): 24,
}


@dataclass(frozen=True)
class Result:
    """Resources of one kernel at one launch, as reported by the compiler."""

    op: str
    kernel: str
    label: str
    capability: int
    num_warps: int
    num_stages: int
    has_dot: bool
    overlaps: bool
    registers: int = 0  #: per thread
    shared: int = 0  #: bytes per program
    spills: int = 0  #: bytes stored and loaded
    matrix_instructions: int = 0
    loop: Loop | None = None  #: the hottest
    outside: Loop | None = None  #: the code around it
    unoverlapped: int = 0  #: loops that wait for every copy they have issued
    serialised: tuple[str, ...] = ()  #: warnings of ptxas
    reread: tuple[str, ...] = ()  #: operands read back from shared memory every time
    duplicated: tuple[str, ...] = ()  #: products that several warps compute
    error: str = ""

    @property
    def faults(self) -> list[str]:
        """Reasons not to ship this launch; empty if there are none."""
        if self.error:
            return [f"does not compile: {self.error}"]
        limit = SHARED_MEMORY[self.capability]
        found = []
        if self.shared > limit:
            found.append(f"needs {self.shared} bytes of shared memory, the chip has {limit}")
        if self.spills > _ALLOWED_SPILLS.get((self.op, self.label.split(" odd")[0]), 0):
            found.append(f"spills {self.spills} bytes")
        if self.has_dot and not self.matrix_instructions:
            found.append("multiplies without tensor cores")
        if self.serialised:
            found.append(f"serialises wgmma ({', '.join(self.serialised)})")
        if self.unoverlapped:
            found.append(f"has {self.unoverlapped} loops without a copy in flight")
        if self.overlaps and (loop := self.loop) and loop.overlapped < loop.exponentials:
            found.append(
                f"computes {loop.overlapped} of {loop.exponentials} exponentials during a product"
            )
        if self.reread:
            found.append(f"reads {', '.join(self.reread)} from shared memory every time")
        if self.duplicated:
            found.append(f"computes {', '.join(self.duplicated)}")
        return found


def _modules() -> Iterator[str]:
    """Yield the kernel modules of each op."""
    names = ["kernel", "gluon_kernel"] if has_gluon() else ["kernel"]
    for folder in pkgutil.iter_modules(fastsam2_kernels.__path__):
        for name in [f"fastsam2_kernels.{folder.name}.{name}" for name in names]:
            if folder.ispkg and importlib.util.find_spec(name) is not None:
                yield name


def _compile_module(module: str, capability: int) -> list[Result]:
    variants = importlib.import_module(module).variants(capability)
    # Several sizes may share a launch.
    distinct = {(v.kernel.__name__, v.label): v for v in variants}
    return [compile_variant(variant) for variant in distinct.values()]


def compile_variant(variant: Variant) -> Result:
    """Compile one kernel to machine code and read its resources."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget

    names = variant.kernel.arg_names
    aligned = variant.aligned
    if aligned is None:
        aligned = tuple(k for k, v in variant.signature.items() if v.startswith("*"))
    seen = {
        "op": variant.op,
        "kernel": variant.kernel.__name__,
        "label": variant.label,
        "capability": variant.capability,
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "has_dot": variant.has_dot,
        "overlaps": variant.overlaps,
    }
    # ptxas reports only what it assembles, so bypass the cache.
    knobs.compilation.always_compile = True
    knobs.nvidia.dump_ptxas_log = True
    log = io.StringIO()
    try:
        source = _source_class(variant)(
            fn=variant.kernel,
            signature={k: variant.signature.get(k, "constexpr") for k in names},
            constexprs={(names.index(k),): v for k, v in variant.constants.items()},
            attrs={(names.index(k),): [["tt.divisibility", 16]] for k in aligned},
        )
        with contextlib.redirect_stdout(log):
            built = triton.compile(
                source,
                target=GPUTarget("cuda", variant.capability, 32),
                options={"num_warps": variant.num_warps, "num_stages": variant.num_stages},
            )
    except Exception as error:  # any compiler error is a result
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Result(**seen, error=lines[-1])
    text, ttgir, ptx = log.getvalue(), built.asm["ttgir"], built.asm["ptx"]
    loops = compiled_code.inner_loops(ptx)
    return Result(
        **seen,
        registers=compiled_code.registers(text),
        shared=built.metadata.shared,
        spills=compiled_code.spills(text),
        matrix_instructions=len(re.findall(_matrix_instruction(variant), ptx)),
        loop=compiled_code.hottest(loops),
        outside=compiled_code.outside(ptx),
        unoverlapped=sum(loop.unoverlapped for loop in loops),
        serialised=tuple(compiled_code.serialised(text)),
        reread=tuple(compiled_code.reread_operands(ttgir)),
        duplicated=tuple(compiled_code.duplicated_products(ttgir)),
    )


def _source_class(variant: Variant) -> Any:
    if variant.kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    from triton.compiler import ASTSource

    return ASTSource


def _matrix_instruction(variant: Variant) -> str:
    """Return the pattern of matrix instructions in PTX; on Hopper, halves must use wgmma."""
    half = variant.constants.get("PRECISION") == "ieee"
    if variant.capability == 90 and half:
        return r"wgmma\.mma_async"
    return r"(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)"


def markdown(results: Iterable[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| op | kernel | launch | GPU | warps, stages | registers | shared KB | spills "
        "| matrix | waits | shared loads | global loads | copies | exp | exp under wgmma "
        "| KB in flight |",
        "|---" * 16 + "|",
    ]
    for r in results:
        cells = [
            r.op, r.kernel.lstrip("_"), r.label, f"sm_{r.capability}",
            f"{r.num_warps}, {r.num_stages}", r.registers, f"{r.shared / 1024:.0f}", r.spills,
        ]  # fmt: skip
        if loop := r.loop:
            cells += [
                loop.matrix, loop.waits, loop.shared_loads, loop.global_loads, loop.copies,
                loop.exponentials, loop.overlapped, f"{loop.in_flight / 1024:.0f}",
            ]  # fmt: skip
        else:
            cells += ["-"] * 8
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Compile and report; return 1 if `--check` finds a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 on any fault")
    parser.add_argument("--write", type=Path, help="write the table to this file")
    parser.add_argument("--op", help="only this op")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: interpreted kernels cannot be compiled")

    tasks = [(m, c) for m in _modules() if args.op in (None, m.split(".")[1]) for c in CAPABILITIES]
    with ProcessPoolExecutor(args.jobs) as pool:
        found = pool.map(_compile_module, *zip(*tasks, strict=True)) if tasks else []
        results = [result for module in found for result in module]
    table = markdown(results)
    print(table)
    faulty = [r for r in results if r.faults]
    for r in faulty:
        print(
            f"{r.op}/{r.kernel} {r.label} sm_{r.capability}: {'; '.join(r.faults)}", file=sys.stderr
        )
    print(f"{len(results)} compiled, {len(faulty)} with faults")
    if args.write:
        version = importlib.metadata.version("triton")
        args.write.write_text(_README.format(version=version, table=table))
    return int(bool(args.check and faulty))


_README = """# The kernels, compiled

Generated by `python -m bench.compile --write kernels/README.md` with Triton {version}: every kernel
with every set of launch parameters that is shipped, compiled ahead of time. Registers are per
thread, shared memory per program, spills in bytes. From `matrix` on, the columns count instructions
of a thread in one iteration of its hottest loop: tensor-core instructions, waits, loads from shared
and from global memory, asynchronous copies, exponentials, and those of them that are computed while
a product is under way; the last is what a program copies while it computes.

These numbers come from the compiler. Tests check the results of the kernels in Triton's
interpreter and, compiled, on emulated GPUs; no GPU has run them yet, so there are no times and no
speed-ups here.

{table}
"""

if __name__ == "__main__":
    sys.exit(main())
