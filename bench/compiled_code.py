"""Facts that decide the speed of a compiled kernel, read from its PTX, TTGIR and ptxas log.

TTGIR is Triton's GPU IR, in which layouts and buffers are explicit. All functions are pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = [
    "Loop",
    "count",
    "duplicated_products",
    "hottest",
    "inner_loops",
    "outside",
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
# Size of the product, and whether its first operand is a descriptor of shared memory.
_MMA = r"\bmma\.sync\.\S*\.m(\d+)n(\d+)k(\d+)\."
_WGMMA = r"\bwgmma\.mma_async\.\S*\.m(\d+)n(\d+)k(\d+)\.\S+\s*\{[^}]*\},\s*(%\w+)?"
_LDMATRIX = r"\b(?:ld|st)matrix\.\S*\.x(\d)\."
_ACCESS = r"\b(?:ld|st)\.(?:shared|global)\S*?(?:\.v(\d))?\.[a-z](\d+)\s"
_INSTRUCTION = r"^\s*(?:@!?%\w+\s+)?(?!mov\b)[a-z]\w*[.\s]"

_VIEW = r"(%[\w#]+) = ttg\.memdesc_\w+ (%[\w#]+)"
_WRITE = r"ttg\.(?:async_copy_global_to_local|local_store) %[\w#]+, (%[\w#]+)"


@dataclass(frozen=True)
class Loop:
    """Instructions of a thread in one iteration of an innermost loop, or outside of it."""

    matrix: int  #: tensor-core instructions
    waits: int  #: for matrix instructions and copies; one may cover both
    shared_loads: int
    global_loads: int  #: into registers
    copies: int  #: asynchronous, from global to shared memory
    exponentials: int
    overlapped: int  #: exponentials computed while a product is under way
    in_flight: int  #: bytes that all threads are copying while they compute
    unoverlapped: bool  #: it waits for every copy that it has issued
    instructions: int  #: of any kind, except moves, most of which ptxas removes
    copied: int  #: bytes of the asynchronous copies
    flops: int  #: of the tensor-core instructions of a warp
    warp_bytes: int  #: that a warp moves through its L1 cache and shared memory, which are one
    pipelined: bool  #: a product is under way across a wait


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
    return [count(body, _threads(ptx)) for body in _bodies(ptx)]


def _bodies(ptx: str) -> list[str]:
    lines = ptx.splitlines()
    labels: dict[str, int] = {}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        if label := re.match(r"(\$L\w+):", line):
            labels[label[1]] = i
        elif (branch := re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line)) and branch[1] in labels:
            ends[labels[branch[1]]] = i
    return [
        "\n".join(lines[begin:end])
        for begin, end in ends.items()
        if not any(begin < other < end for other in ends)
    ]


def outside(ptx: str) -> Loop:
    """Return the instructions outside of the hottest loop, without regard to branches."""
    threads = _threads(ptx)
    bodies = {count(body, threads): body for body in _bodies(ptx)}
    loop = hottest(list(bodies))
    return count(ptx if loop is None else ptx.replace(bodies[loop], "", 1), threads)


def _threads(ptx: str) -> int:
    return int(re.search(r"\.reqntid (\d+)", ptx)[1])  # type: ignore[index]


def count(body: str, threads: int) -> Loop:
    """Return the instructions of PTX without regard to its branches, for a program of so many
    threads."""

    def number(pattern: str) -> int:
        return len(re.findall(pattern, body))

    copies = re.findall(_COPY, body)
    outstanding = [int(n) for n in re.findall(r"\bcp\.async\.wait_group\s+(\w+)", body)]
    groups = number(r"\bcp\.async\.commit_group\b")
    copied = sum(int(n, 0) for n in copies)
    # Groups are of different sizes: take the mean.
    bytes_of_group = copied / max(groups, 1)
    in_flight = round(threads * min(outstanding, default=0) * bytes_of_group)
    # After the last wait of an iteration: these arrive in another iteration.
    after_waits = re.split(_BARRIER_WAIT, body)[-1]
    bulk_in_flight = sum(int(n) for n in re.findall(_EXPECTED, after_waits))
    bulk_copies = number(_BULK_COPY)
    flops = sum(2 * int(m) * int(n) * int(k) for m, n, k in re.findall(_MMA, body))
    warp_bytes = 32 * copied + sum(128 * int(n) for n in re.findall(_LDMATRIX, body))
    warp_bytes += sum(4 * int(n or 1) * int(bits) for n, bits in re.findall(_ACCESS, body))
    # Four warps share a wgmma; a step along k takes 32 bytes of each row and column.
    for m, n, k, shared in re.findall(_WGMMA, body):
        flops += 2 * int(m) * int(n) * int(k) // 4
        warp_bytes += 32 * (int(n) + bool(shared) * int(m)) // 4
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
        instructions=len(re.findall(_INSTRUCTION, body, re.MULTILINE)),
        copied=copied,
        flops=flops,
        warp_bytes=warp_bytes,
        pipelined=bool(re.search(r"\bwgmma\.wait_group\.sync\.aligned\s+[1-9]", body)),
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
