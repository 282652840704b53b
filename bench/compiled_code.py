"""Facts that decide the speed of a compiled kernel, read from its PTX, TTGIR and ptxas log.

TTGIR is Triton's GPU IR, in which layouts and buffers are explicit. All functions are pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = [
    "Loop",
    "duplicated_products",
    "hottest",
    "inner_loops",
    "registers",
    "reread_operands",
    "serialised",
    "spills",
]

_MATRIX = r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\."
_COPY = r"\bcp\.async\.c[ag]\.shared\.global\s*\[.*?\],\s*\[.*?\],\s*(\w+)"
_BULK_COPY = r"\bcp\.async\.bulk\.tensor\S*\.global\."
_EXPECTED = r"\bmbarrier\.arrive\.expect_tx\S*\s[^;]*,\s*(\d+);"
_BARRIER_WAIT = r"\bmbarrier\.(?:try|test)_wait\b"
_EXPONENTIAL = r"\bex2\.approx\b"
_PRODUCTS = rf"wgmma\.(commit)_group|wgmma\.wait_group\S*\s+(\d+)|({_EXPONENTIAL})"

_VIEW = r"(%[\w#]+) = ttg\.memdesc_\w+ (%[\w#]+)"
_WRITE = r"ttg\.(?:async_copy_global_to_local|local_store) %[\w#]+, (%[\w#]+)"


@dataclass(frozen=True)
class Loop:
    """Instructions of a thread in one iteration of an innermost loop."""

    matrix: int  #: tensor-core instructions
    waits: int  #: for matrix instructions and copies; one may cover both
    shared_loads: int
    global_loads: int  #: into registers
    copies: int  #: asynchronous, from global to shared memory
    exponentials: int
    overlapped: int  #: exponentials computed while a product is under way
    in_flight: int  #: bytes that all threads are copying while they compute
    unoverlapped: bool  #: it waits for every copy that it has issued


def registers(log: str) -> int:
    """Return the registers of a thread, from the log of `ptxas -v`."""
    return max((int(n) for n in re.findall(r"Used (\d+) registers", log)), default=0)


def spills(log: str) -> int:
    """Return the bytes that a thread spills, stored and loaded, from the log of `ptxas -v`."""
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", log))


def serialised(log: str) -> list[str]:
    """Return the warnings of ptxas that each wgmma waits for the one before: C7510 to C7519."""
    return sorted(set(re.findall(r"\bC751\d\b", log)))


def inner_loops(ptx: str) -> list[Loop]:
    """Return the innermost loops: from a label to the last branch back to it."""
    lines = ptx.splitlines()
    threads = int(re.search(r"\.reqntid (\d+)", ptx)[1])  # type: ignore[index]
    labels: dict[str, int] = {}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        if label := re.match(r"(\$L\w+):", line):
            labels[label[1]] = i
        elif (branch := re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line)) and branch[1] in labels:
            ends[labels[branch[1]]] = i
    return [
        _count("\n".join(lines[begin:end]), threads)
        for begin, end in ends.items()
        if not any(begin < other < end for other in ends)
    ]


def _count(body: str, threads: int) -> Loop:
    def number(pattern: str) -> int:
        return len(re.findall(pattern, body))

    copies = re.findall(_COPY, body)
    outstanding = [int(n) for n in re.findall(r"\bcp\.async\.wait_group\s+(\w+)", body)]
    groups = number(r"\bcp\.async\.commit_group\b")
    # Groups are of different sizes: take the mean.
    bytes_of_group = sum(int(n, 0) for n in copies) / max(groups, 1)
    in_flight = round(threads * min(outstanding, default=0) * bytes_of_group)
    # After the last wait of an iteration: these arrive in another iteration.
    after_waits = re.split(_BARRIER_WAIT, body)[-1]
    bulk_in_flight = sum(int(n) for n in re.findall(_EXPECTED, after_waits))
    bulk_copies = number(_BULK_COPY)
    return Loop(
        matrix=number(_MATRIX),
        waits=number(r"\b(?:wgmma|cp\.async)\.wait_group\b") + number(_BARRIER_WAIT),
        shared_loads=number(r"\b(?:ld\.shared|ldmatrix)\b"),
        global_loads=number(r"\bld\.global\b"),
        copies=len(copies) + bulk_copies,
        exponentials=number(_EXPONENTIAL),
        overlapped=_overlapped_exponentials(body),
        in_flight=in_flight + bulk_in_flight,
        unoverlapped=(bool(copies) and 0 in outstanding)
        or (bool(bulk_copies) and not bulk_in_flight),
    )


def _overlapped_exponentials(body: str) -> int:
    """Count exponentials between a product and the wait for it."""
    found = pending = 0
    for commit, left, exponential in re.findall(_PRODUCTS, body):
        if commit:
            pending += 1
        elif left:
            pending = min(pending, int(left))
        elif exponential and pending:
            found += 1
    return found


def hottest(loops: list[Loop]) -> Loop | None:
    """Return the loop with the most work; None if there is none."""
    return max(
        loops, key=lambda x: (x.matrix, x.exponentials, x.overlapped, x.global_loads), default=None
    )


def reread_operands(ttgir: str) -> list[str]:
    """Return buffers in shared memory that a loop of wgmma reads into registers every time, though
    it never writes them.

    Wgmma takes such an operand from shared memory without a load. Older tensor cores take operands
    from registers, which do not hold the queries of a tile in addition to the results.
    """
    found = set()
    for loop in _loops(ttgir):
        if "ttng.warp_group_dot " not in loop:
            continue
        # Names are unique within a loop only.
        views = dict(re.findall(_VIEW, ttgir)) | dict(re.findall(_VIEW, loop))
        defined = set(re.findall(r"(%\w+)(?::\d+)? =", loop))
        written = {_buffer(name, views) for name in re.findall(_WRITE, loop)}
        for name in re.findall(r"ttg\.local_load (%[\w#]+)", loop):
            name = _buffer(name, views)
            if name not in written and name.split("#")[0] not in defined:
                found.add(name)
    return sorted(found)


def _buffer(name: str, views: dict[str, str]) -> str:
    while name in views:
        name = views[name]
    return name


def _loops(ttgir: str) -> list[str]:
    """Return the innermost `scf.for` loops of TTGIR."""
    found, depth = [], 0
    open_loops: list[tuple[int, int]] = []  # depth and first line
    innermost = False
    lines = ttgir.splitlines()
    for i, line in enumerate(lines):
        if " scf.for " in line:
            open_loops.append((depth, i))
            innermost = True
        depth += line.count("{") - line.count("}")
        if open_loops and depth <= open_loops[-1][0]:
            begin = open_loops.pop()[1]
            if innermost:
                found.append("\n".join(lines[begin : i + 1]))
            innermost = False
    return found


def duplicated_products(ttgir: str) -> list[str]:
    """Return products that several warps compute: their layout is larger than the result.

    Each is described as `64x64 2 times`.
    """
    tiles = {}
    for name, attributes in re.findall(r"(#\w+) = #ttg\.nvidia_mma<\{(.*)\}>", ttgir):
        warps, shape = (
            [int(n) for n in re.search(rf"{key} = \[([\d, ]+)\]", attributes)[1].split(",")]  # type: ignore[index]
            for key in ("warpsPerCTA", "instrShape")
        )
        tiles[name] = [w * s for w, s in zip(warps, shape, strict=False)]
    found = set()
    dots = r"(?:tt\.dot|ttng\.warp_group_dot) .*-> tensor<([\dx]+)x\w+, (#\w+)>"
    for size, layout in re.findall(dots, ttgir):
        shape = [int(n) for n in size.split("x")]
        if layout not in tiles:
            continue
        times = math.prod(max(1, t // n) for t, n in zip(tiles[layout], shape, strict=True))
        if times > 1:
            found.add(f"{size} {times} times")
    return sorted(found)
