"""Translation of a basic block of PTX to a Python function on arrays.

`block(batch, file, mask)` executes the block for a batch of programs. `file` is the list of
registers: arrays of unsigned integers (bool for predicates) with the axes [programs, threads], of
which either may be 1. `mask` selects threads, and is None if all run. The function returns the
condition of the branch that ends the block, None if there is none, the block where it is true, and
the one where it is false.

To add an instruction, add a line to `instructions.py` if its result is an expression of its
operands, or else a method `op_<name>` here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.emulator import arithmetic
from tests.emulator.instructions import Form, form_of
from tests.emulator.ptx import EXIT, Instruction, Kernel, split_list, width

__all__ = ["Block", "translate"]

Block = Callable[[Any, list[np.ndarray], np.ndarray | None], tuple[np.ndarray | None, int, int]]

#: NumPy types of PTX types. Arithmetic of bfloat16 is that of float32, rounded.
_DTYPES = {
    "pred": "?",
    **{f"{kind}{8 * size}": f"u{size}" for size in (1, 2, 4, 8) for kind in "bu"},
    **{f"s{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": f"f{size}" for size in (2, 4, 8)},
}

_SPECIAL = {
    "%tid.x": "batch.thread",
    "%ntid.x": "batch.threads",
    "%laneid": "batch.lane",
    **{f"%tid.{axis}": "batch.zero" for axis in "yz"},
    **{f"%ctaid.{axis}": f"batch.program[{i}]" for i, axis in enumerate("xyz")},
    **{f"%nctaid.{axis}": f"batch.grid[{i}]" for i, axis in enumerate("xyz")},
}


#: Instructions without an effect here, as accesses to memory happen in order.
_IGNORED = ("membar", "prefetch", "nanosleep")
_ROUNDINGS = {"rzi": "np.trunc", "rni": "np.rint", "rmi": "np.floor", "rpi": "np.ceil"}
_ATOMICS = ("add", "min", "max", "exch", "cas", "and", "or", "xor")


def translate(kernel: Kernel, block: int, *, masked: bool) -> Block:
    """Return the function of a block.

    Raises:
        NotImplementedError: with the line of the kernel, if an instruction is unknown.
    """
    return _Translator(kernel, block, masked).function()


class _Translator:
    """State of a translation.

    Attributes:
        values: for each register, its variables by NumPy type.
        loaded: registers that are read before they are written.
        written: registers that are written, in order.
    """

    def __init__(self, kernel: Kernel, block: int, masked: bool) -> None:
        self.kernel, self.block, self.masked = kernel, block, masked
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self.values: dict[str, dict[str, str]] = {}
        self.loaded: set[str] = set()
        self.written: dict[str, None] = {}

    def function(self) -> Block:
        end = f"None, {self.kernel.successors(self.block)[0]}, {EXIT}"
        for instruction in self.kernel.blocks[self.block]:
            self.instruction = instruction
            name = instruction.opcode[0]
            try:
                if name == "bra":
                    end = self._branch(instruction)
                elif name not in ("ret", "exit"):
                    self._emit(instruction)
                elif instruction.predicate:
                    raise NotImplementedError("exit of some threads")
            except (KeyError, IndexError, NotImplementedError, ValueError) as error:
                raise NotImplementedError(f"{instruction} ({error or 'unknown'})") from error
        for register in self.written:
            if len(self.kernel.uses[register]) > 1 or register in self.loaded:
                self._put(register, self._register(register, _plain(register)))
        self.lines.append(f"return {end}")
        source = "def block(batch, file, mask):\n    " + "\n    ".join(self.lines)
        names: dict[str, Any] = {"np": np, **vars(arithmetic), **self.constants}
        exec(compile(source, f"<{self.kernel.name}, block {self.block}>", "exec"), names)
        function: Block = names["block"]
        return function

    def _branch(self, instruction: Instruction) -> str:
        target = self.kernel.labels[instruction.operands[0]]
        if instruction.predicate is None:
            return f"None, {target}, {EXIT}"
        condition = self._register(instruction.predicate, "?")
        return f"{'~' * instruction.negated}{condition}, {target}, {self.block + 1}"

    def _emit(self, instruction: Instruction) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        if "sync" in opcode and (guard := self._guard()):
            by_warp = "warp" in opcode or opcode[0] in ("shfl", "redux", "elect")
            self._call("check_warps" if by_warp else "check_threads", guard)
        if method := getattr(self, f"op_{opcode[0]}", None):
            method(opcode, operands)
            return
        if opcode[0] in _IGNORED:
            return
        kind = opcode[-1]
        form = form_of(opcode)
        if kind.endswith("x2"):
            self._emit_pair(form, kind[:-2], operands)
            return
        kinds = {"t": kind}
        if kind[1:].isdigit():
            kinds["w"] = f"{kind[0]}{2 * int(kind[1:])}"
        sources = [
            str(_integer(x)) if operand == "n" else self._read(x, kinds.get(operand, operand))
            for x, operand in zip(operands[1:], form.operands.split(), strict=False)
        ]
        result = kinds.get(form.result, form.result)
        self._write(operands[0], result, form.expression.format(*sources))

    def _emit_pair(self, form: Form, kind: str, operands: Sequence[str]) -> None:
        """Apply an instruction to the two numbers of 16 bits in a register."""
        words = [self._read(x, "b32") for x in operands[1:]]
        low, high = (
            f"to_{kind}({form.expression.format(*(f'half({x}, {i}, {kind!r})' for x in words))})"
            for i in range(2)
        )
        self._write(operands[0], "b32", f"{low}.astype('u4') | ({high}.astype('u4') << 16)")

    # Registers and constants

    def _constant(self, value: Any, prefix: str = "k") -> str:
        name = f"{prefix}{len(self.constants)}"
        self.constants[name] = value
        return name

    def _temporary(self, expression: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def _call(self, method: str, *arguments: Any) -> str:
        """Call a method of the batch, which reports faults at this instruction."""
        here = self._constant(self.instruction, "at")
        return self._temporary(f"batch.{method}({', '.join(map(str, (*arguments, here)))})")

    def _do(self, method: str, *arguments: Any) -> None:
        """Call a method of the batch that cannot fail."""
        self.lines.append(f"batch.{method}({', '.join(map(str, arguments))})")

    def _put(self, register: str, value: str) -> None:
        self.lines.append(f"file[{self.kernel.numbers[register]}] = {value}")

    def _register(self, register: str, dtype: str) -> str:
        """Return a variable with the content of a register of the same size as `dtype`."""
        found = self.values.get(register)
        if found is None:
            plain = _plain(register)
            found = {plain: _variable(register, plain)}
            self.loaded.add(register)
            self.lines.append(f"{found[plain]} = file[{self.kernel.numbers[register]}]")
            # The matrix unit changes accumulators in the file.
            if register not in self.kernel.accumulators:
                self.values[register] = found
        if dtype not in found:
            old = next(iter(found.values()))
            found[dtype] = _variable(register, dtype)
            self.lines.append(f"{found[dtype]} = {old}.view({dtype!r})")
        return found[dtype]

    def _read(self, operand: str, kind: str) -> str:
        """Return an expression of an operand as the NumPy type of `kind`; bfloat16 as float32."""
        if kind == "bf16":
            return f"from_bf16({self._read(operand, 'b16')})"
        dtype = _DTYPES[kind]
        size = np.dtype(dtype).itemsize
        if operand in _SPECIAL:
            return _SPECIAL[operand]
        if operand.startswith("%"):
            if width(operand) in (0, size):
                return self._register(operand, dtype)
            low = f"{self._register(operand, _plain(operand))}.astype('u{size}')"
            return low if dtype[0] == "u" else f"{low}.view({dtype!r})"
        if operand == "global_smem":
            return self._constant(np.zeros((1, 1), dtype))
        if "_param_" in operand:
            return self._parameter(operand)
        number = _number(operand)
        if dtype == "?":
            return self._constant(np.array([[bool(number)]]))
        if isinstance(number, int) and (dtype[0] != "f" or re.match("0[fFdD]", operand)):
            bits = np.array([[number & 256**size - 1]], f"u{size}")
            return self._constant(bits.view(dtype))
        return self._constant(np.array([[number]], dtype))

    def _parameter(self, name: str) -> str:
        names = [parameter.name for parameter in self.kernel.parameters]
        return f"batch.parameters[{names.index(name)}]"

    def _tuple(self, operand: Sequence[str], kind: str) -> str:
        return "(" + "".join(f"{self._read(x, kind)}, " for x in operand) + ")"

    def _write(self, register: str, kind: str, expression: str) -> None:
        """Assign to a register where the guard holds, extended if it is wider than `kind`."""
        if register == "_":
            return
        if "|" in register:
            raise NotImplementedError("two results")
        if kind == "bf16":
            kind, expression = "b16", f"to_bf16({expression})"
        dtype, wide = _DTYPES[kind], width(register)
        if wide > np.dtype(dtype).itemsize:
            dtype = f"{dtype[0]}{wide}"
            expression = f"({expression}).astype({dtype!r})"
        if guard := self._guard():
            expression = f"np.where({guard}, {expression}, {self._register(register, dtype)})"
        if register in self.kernel.accumulators:
            self._put(register, f"({expression}).view('u4')")
            return
        name = _variable(register, dtype)
        self.lines.append(f"{name} = {expression}")
        self.values[register] = {dtype: name}
        self.written[register] = None

    def _write_all(self, targets: Sequence[str], kind: str, results: str) -> None:
        """Assign the elements of a list of arrays, which have the size of `kind`."""
        for i, target in enumerate(targets):
            self._write(target, kind, f"{results}[{i}].view({_DTYPES[kind]!r})")

    def _guard(self) -> str:
        """Return the mask of the instruction, empty if all threads execute it."""
        terms = ["mask"] * self.masked
        if self.instruction.predicate:
            condition = self._register(self.instruction.predicate, "?")
            terms.append("~" * self.instruction.negated + condition)
        return " & ".join(terms)

    def _mask(self) -> str:
        return self._guard() or "None"

    def _address(self, operand: str) -> str:
        inner = re.fullmatch(r"\[\s*([%\w.]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        if inner is None:
            raise NotImplementedError(f"address {operand}")
        base = inner[1]
        kind = f"b{8 * width(base)}" if base.startswith("%") else "b32"
        offset = _integer(inner[2]) if inner[2] else 0
        return f"({self._read(base, kind)}.astype('i8') + {offset})"

    # Moves and conversions

    def op_mov(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        kind = opcode[-1]
        target, source = (_vector(x) for x in operands)
        parts = max(len(target), len(source))
        if parts == 1:
            self._write(target[0], kind, self._read(source[0], kind))
            return
        whole = 8 * np.dtype(_DTYPES[kind]).itemsize
        bits = whole // parts
        if len(source) == 1:
            x = self._temporary(self._read(source[0], f"b{whole}"))
            for i, part in enumerate(target):
                self._write(part, f"b{bits}", f"({x} >> {bits * i}).astype('u{bits // 8}')")
        else:
            terms = [
                f"({self._read(part, f'b{bits}')}.astype('u{whole // 8}') << {bits * i})"
                for i, part in enumerate(source)
            ]
            self._write(target[0], f"b{whole}", " | ".join(terms))

    def op_cvt(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        *modifiers, to, source = opcode[1:]
        target, *values = operands
        rounding = next((_ROUNDINGS[x] for x in modifiers if x in _ROUNDINGS), "")
        if {*modifiers} - {"rn", "rna", "ftz", *_ROUNDINGS}:
            raise NotImplementedError("rounding")
        if to == "tf32":
            self._write(target, "b32", f"to_tf32({self._read(values[0], 'b32')})")
        elif to in ("bf16x2", "f16x2"):
            high, low = (f"to_{to[:-2]}({self._read(x, 'f32')}).astype('u4')" for x in values)
            self._write(target, "b32", f"{low} | ({high} << 16)")
        else:
            x = f"{rounding}({self._read(values[0], source)})"
            cast = "round_integer({}, {!r})" if rounding and to[0] != "f" else "{}.astype({!r})"
            dtype = "f4" if to == "bf16" else _DTYPES[to]
            self._write(target, to, cast.format(x, dtype))

    # Memory

    def op_ld(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        kind, targets = opcode[-1], _vector(operands[0])
        if opcode[1] == "param":
            self._write_all(targets, kind, f"[{self._parameter(operands[1][1:-1])}]")
            return
        size = np.dtype(_DTYPES[kind]).itemsize
        arguments = self._address(operands[1]), size, len(targets), self._mask()
        if opcode[1] == "global":
            loaded = self._call("memory.load", *arguments, "batch.number")
        elif opcode[1].startswith("shared"):
            loaded = self._call("shared.load", *arguments)
        else:
            raise NotImplementedError(opcode[1])
        self._write_all(targets, kind, loaded)

    def op_st(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        size = np.dtype(_DTYPES[opcode[-1]]).itemsize
        values = self._tuple(_vector(operands[1]), f"b{8 * size}")
        arguments = self._address(operands[0]), size, values, self._mask()
        if opcode[1] == "global":
            self._call("memory.store", *arguments, "batch.number", "batch.shape")
        elif opcode[1].startswith("shared"):
            self._call("shared.store", *arguments)
        else:
            raise NotImplementedError(opcode[1])

    def op_atom(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if "global" not in opcode:
            raise NotImplementedError("atomic in shared memory")
        target, place, *values = operands
        operation = next(x for x in opcode if x in _ATOMICS)
        old = self._call(
            "memory.atomic", self._address(place), repr(operation),
            self._tuple(values, opcode[-1]), self._mask(), "batch.number", "batch.shape",
        )  # fmt: skip
        self._write(target, opcode[-1], old)

    def op_red(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        self.op_atom(opcode, ("_", *operands))

    def op_cp(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if opcode[2] == "bulk":
            self._bulk_copy(opcode[3:], operands)
        elif opcode[2] == "commit_group":
            self._do("shared.commit")
        elif opcode[2] == "wait_group":
            self._do("shared.wait", _integer(operands[0]))
        elif opcode[3:] == ("shared", "global"):
            target, source, size, *fetched = operands
            self._call(
                "shared.copy_async", self._address(target), self._address(source), _integer(size),
                self._read(fetched[0], "u32") if fetched else None, self._mask(), "batch.number",
            )  # fmt: skip
        else:
            raise NotImplementedError("form of cp")

    def op_ldmatrix(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if "m8n8" not in opcode or opcode[-1] != "b16":
            raise NotImplementedError("form of ldmatrix")
        targets, address = _vector(operands[0]), self._address(operands[1])
        loaded = self._call("shared.load_matrices", address, len(targets), "trans" in opcode)
        self._write_all(targets, "b32", loaded)

    def op_stmatrix(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if "m8n8" not in opcode or opcode[-1] != "b16":
            raise NotImplementedError("form of stmatrix")
        values = self._tuple(_vector(operands[1]), "b32")
        address = self._address(operands[0])
        self._call("shared.store_matrices", address, values, "trans" in opcode)

    # Barriers, and products of matrices

    def op_bar(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if (opcode, operands) == (("bar", "sync"), ("0",)):
            self._do("barrier")
        elif (opcode, operands) == (("bar", "warp", "sync"), ("-1",)):
            self._do("warp_barrier")
        else:
            raise NotImplementedError("barrier of some threads")

    def op_fence(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if opcode[1] == "proxy":
            self._do("proxy_fence")

    def op_elect(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        lane, elected = operands[0].split("|")
        self._write(lane, "b32", "batch.zero")
        self._write(elected, "pred", "batch.lane == 0")

    def op_mma(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        form = opcode[3], *opcode[4:6], opcode[-2]
        if form not in (
            ("m16n8k16", "row", "col", "bf16"),
            ("m16n8k16", "row", "col", "f16"),
            ("m16n8k8", "row", "col", "tf32"),
        ):
            raise NotImplementedError("form of mma")
        d, a, b, c = (_vector(x) for x in operands)
        factors = f"{self._tuple(a, 'b32')}, {self._tuple(b, 'b32')}, {self._tuple(c, 'f32')}"
        product = self._temporary(f"matrix_product({factors}, {opcode[-2]!r}, batch.shape)")
        self._write_all(d, "f32", product)

    def op_wgmma(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        if opcode[1] == "commit_group":
            self._do("unit.commit")
        elif opcode[1] == "wait_group":
            self._do("unit.wait", "file", _integer(operands[0]))
        elif opcode[1] == "mma_async":
            target, a, b, accumulate, *flags = operands
            if flags[:2] != ["1", "1"]:
                raise NotImplementedError("negated operands")
            # Operands in registers, and of 32 bits, have no order.
            in_registers = a.startswith("{")
            orders = [0] * in_registers + [int(x) for x in flags[2:]]
            self._call(
                "unit.multiply", "file", [self.kernel.numbers[x] for x in _vector(target)],
                self._tuple(_vector(a), "b32") if in_registers else self._read(a, "b64"),
                self._read(b, "b64"), self._read(accumulate, "pred"), (opcode[4], opcode[-1]),
                (*orders, 0, 0)[:2],
            )  # fmt: skip
        elif opcode[1] != "fence":
            raise NotImplementedError("form of wgmma")

    def _bulk_copy(self, form: Sequence[str], operands: Sequence[str]) -> None:
        if form[0] == "commit_group":
            self._do("bulk.commit", self._mask())
        elif form[0] == "wait_group":
            self._do("bulk.wait_group", _integer(operands[0]))
        elif form[0] == "tensor" and form[3] == "global":
            target, tile, barrier = operands
            places = self._address(target), self._address(barrier)
            self._call("bulk.load", self._tile(tile), *places, self._mask())
        elif form[0] == "tensor" and form[2] == "global":
            tile, source = operands
            self._call("bulk.store", self._tile(tile), self._address(source), self._mask())
        else:
            raise NotImplementedError("form of bulk copy")

    def _tile(self, operand: str) -> str:
        """Return a descriptor and the coordinates of a tile."""
        descriptor, coordinates = split_list(operand[1:-1])
        return f"{self._read(descriptor, 'b64')}, {self._tuple(_vector(coordinates), 's32')}"

    def op_mbarrier(self, opcode: Sequence[str], operands: Sequence[str]) -> None:
        address = self._address(next(x for x in operands if x.startswith("[")))
        # Results come before the address, numbers after it.
        number = self._read(operands[-1], "u32") if operands[-1][0] != "[" else None
        one, zero, mask = self._read("1", "u32"), self._read("0", "u32"), self._mask()
        if opcode[1] == "init":
            self._call("bulk.initialise", address, number, mask)
        elif opcode[1] == "inval":
            self._call("bulk.invalidate", address, mask)
        elif opcode[1:3] == ("arrive", "expect_tx"):
            self._call("bulk.arrive", address, one, number, mask)
        elif opcode[1] == "arrive":
            self._call("bulk.arrive", address, number or one, zero, mask)
        elif opcode[1:3] == ("try_wait", "parity"):
            done = self._call("bulk.wait", address, number)
            self._write(operands[0], "pred", done)
        else:
            raise NotImplementedError("form of mbarrier")


def _plain(register: str) -> str:
    """Return the NumPy type of a register in the file."""
    return f"u{width(register)}" if width(register) else "?"


def _variable(register: str, dtype: str) -> str:
    return f"{register[1:]}_{dtype.replace('?', 'p')}"


def _vector(operand: str) -> tuple[str, ...]:
    return split_list(operand[1:-1]) if operand.startswith("{") else (operand,)


def _number(text: str) -> int | float:
    """Return a literal; of a float in hexadecimal its bits."""
    text = text.rstrip("U")
    if re.match("0[fFdD]", text):
        return int(text[2:], 16)
    return int(text, 0) if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", text) else float(text)


def _integer(text: str) -> int:
    number = _number(text)
    if not isinstance(number, int):
        raise NotImplementedError(f"{text} is not a whole number")
    return number
