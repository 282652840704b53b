"""Parser of PTX: one kernel as basic blocks of instructions."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass, field

__all__ = ["EXIT", "Instruction", "Kernel", "Parameter", "parse", "registers", "split_list"]

EXIT = -1  #: block after the last

#: Width in bytes of a register by the prefix of its name; predicates have none.
_WIDTHS = {"%p": 0, "%rs": 2, "%rd": 8, "%r": 4}


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as `@%p1 ld.global.b32 {%r1}, [%rd1+4]`.

    Attributes:
        opcode: with its modifiers and types, split at the dots.
        operands: as written.
        predicate: register that guards it, None without a guard.
        negated: the guard is inverted.
        location: file and line of the Triton kernel.
        text: as written.
    """

    opcode: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str | None
    negated: bool
    location: str
    text: str

    def __str__(self) -> str:
        return f"{self.location}: {self.text}"


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str  #: such as `u64`, or `b8` for a tensor descriptor of 128 bytes


@dataclass
class Kernel:
    """A parsed kernel.

    Attributes:
        threads: of a program.
        blocks: basic blocks; execution starts at the first and falls through to the next.
        labels: block that each label starts.
    """

    name: str
    parameters: list[Parameter]
    threads: int
    blocks: list[list[Instruction]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each register, its place in the register file."""
        return {name: i for i, name in enumerate(self.uses)}

    @functools.cached_property
    def uses(self) -> dict[str, set[int]]:
        """Blocks that name each register."""
        found: dict[str, set[int]] = {}
        for block, instructions in enumerate(self.blocks):
            for instruction in instructions:
                for register in registers(instruction.text):
                    found.setdefault(register, set()).add(block)
        return found

    @functools.cached_property
    def accumulators(self) -> set[str]:
        """Registers that the matrix unit writes asynchronously."""
        return {
            register
            for instructions in self.blocks
            for instruction in instructions
            if instruction.opcode[:2] == ("wgmma", "mma_async")
            for register in registers(instruction.operands[0])
        }

    @functools.cached_property
    def written(self) -> set[str]:
        """Parameters through which it may write to global memory.

        An address is traced to the pointers that it may come from, over all instructions.
        """
        origins: dict[str, set[str]] = {}
        instructions = [x for block in self.blocks for x in block]
        changed = True
        while changed:
            changed = False
            for instruction in instructions:
                if not instruction.operands:
                    continue
                found = set(re.findall(r"\w+_param_\d+", instruction.text))
                for register in registers(" ".join(instruction.operands[1:])):
                    found |= origins.get(register, set())
                for register in registers(instruction.operands[0]):
                    known = origins.setdefault(register, set())
                    if register.startswith("%rd") and not found <= known:
                        known |= found
                        changed = True
        return {
            parameter
            for x in instructions
            if x.opcode[0] in ("st", "atom", "red", "cp")
            for operand in x.operands
            if operand.startswith("[")
            for register in registers(operand)
            for parameter in origins.get(register, ())
            if x.opcode[0] != "cp" or x.opcode[-1] == "bulk_group"
        }

    def successors(self, block: int) -> list[int]:
        following = block + 1 if block + 1 < len(self.blocks) else EXIT
        last = self.blocks[block][-1]
        if last.opcode[0] in ("ret", "exit"):
            return [EXIT]
        if last.opcode[0] == "bra":
            target = self.labels[last.operands[0]]
            return [target, following] if last.predicate else [target]
        return [following]

    @functools.cached_property
    def post_dominators(self) -> list[int]:
        """Immediate post-dominator of each block: where threads that part there meet again."""
        count = len(self.blocks)
        everything = set(range(count)) | {EXIT}
        found = dict.fromkeys(range(count), everything) | {EXIT: {EXIT}}
        changed = True
        while changed:
            changed = False
            for block in reversed(range(count)):
                shared = set.intersection(*(found[s] for s in self.successors(block)))
                if shared | {block} != found[block]:
                    found[block], changed = shared | {block}, True
        # Post-dominators form a chain, and the nearest has all the others.
        return [
            next(d for d in found[block] - {block} if found[d] == found[block] - {block})
            for block in range(count)
        ]


def registers(text: str) -> list[str]:
    """Return the registers that `text` names, without special ones such as `%tid.x`."""
    return re.findall(r"%(?:p|r)\w*", text)


@functools.cache
def width(register: str) -> int:
    """Return the bytes of a register; 0 for a predicate."""
    return _WIDTHS[re.match(r"%(?:p|rs|rd|r)", register)[0]]  # type: ignore[index]


def split_list(text: str) -> tuple[str, ...]:
    """Split at the commas outside of braces and brackets."""
    return tuple(x.strip() for x in re.findall(r"(?:[{\[][^}\]]*[}\]]|[^,{\[])+", text))


def parse(ptx: str) -> Kernel:
    """Parse a module with one kernel.

    Raises:
        ValueError: there is no kernel, or its number of threads is not fixed.
    """
    files = {
        number: name.rsplit("/", 1)[-1]
        for number, name in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', ptx)
    }
    ptx = re.sub(r"//.*", "", _without_scopes(ptx))
    entry = re.search(r"\.visible \.entry (\w+)\((.*?)\)\s*(.*?)\{(.*?)\n\}", ptx, re.DOTALL)
    threads = entry and re.search(r"\.reqntid (\d+)", entry[3])
    if not entry or not threads:
        raise ValueError("no kernel with .reqntid")
    parameters = [
        Parameter(name, kind)
        for kind, name in re.findall(
            r"\.param\s+(?:\.align \d+\s+)?\.(\w+)[^,]*?(\w+)(?:\[\d+\])?\s*(?:,|$)", entry[2]
        )
    ]
    kernel = Kernel(entry[1], parameters, int(threads[1]), [[]])
    location = "?"
    for line in re.split(r"(?<=;)|\n", entry[4]):
        line = line.strip().rstrip(";").strip()
        while label := re.match(r"(\$?\w+):\s*(.*)", line, re.DOTALL):
            if kernel.blocks[-1]:
                kernel.blocks.append([])
            kernel.labels[label[1]] = len(kernel.blocks) - 1
            line = label[2]
        if place := re.match(r"\.loc\s+(\d+)\s+(\d+)", line):
            location = f"{files.get(place[1], place[1])}:{place[2]}"
        elif line and not line.startswith("."):
            kernel.blocks[-1].append(_instruction(line, location))
            if kernel.blocks[-1][-1].opcode[0] in ("bra", "ret", "exit"):
                kernel.blocks.append([])
    if not kernel.blocks[-1]:
        kernel.blocks.pop()
    return kernel


def _instruction(text: str, location: str) -> Instruction:
    parts = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", text, re.DOTALL)
    if parts is None:
        raise ValueError(f"{location}: cannot parse {text!r}")
    negated, predicate, opcode, operands = parts.groups()
    return Instruction(
        tuple(opcode.split(".")), split_list(operands), predicate, bool(negated), location, text
    )


_PREFIXES = {"pred": "%p", "b16": "%rs", "b32": "%r", "b64": "%rd"}


def _without_scopes(ptx: str) -> str:
    """Give the labels and registers of `{ ... }` scopes, in inline assembly, names of their own."""
    numbers = itertools.count()

    def renamed(inline: re.Match[str]) -> str:
        text, number = inline[1], next(numbers)
        for kind, names in re.findall(r"\.reg\s+\.(\w+)\s+([\w, ]+);", text):
            for name in names.split(","):
                new = f"{_PREFIXES[kind]}{name.strip()}{number}"
                text = re.sub(rf"(?<![%\w.]){name.strip()}\b", new, text)
        for name in re.findall(r"^\s*(\w+):", text, re.MULTILINE):
            text = re.sub(rf"\b{name}\b", f"{name}_{number}", text)
        return re.sub(r"^\s*[{}]\s*$", "", text, flags=re.MULTILINE)

    return re.sub(r"// begin inline asm\n(.*?)// end inline asm", renamed, ptx, flags=re.DOTALL)
