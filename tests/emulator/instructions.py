"""Instructions whose result is an expression of their operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Form", "form_of"]


class Form(NamedTuple):
    """An instruction whose result is an expression.

    Attributes:
        expression: of the operands.
        operands: types of the operands: `t` is that of the instruction, `w` twice as wide, `n` a
            literal number; all are `t` by default.
        result: type of the result.
    """

    expression: str
    operands: str = "t t t"
    result: str = "t"


_UNORDERED = "({0} != {0}) | ({1} != {1})"
_COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "ne.f": "({0} < {1}) | ({0} > {1})",
    **dict.fromkeys(("lt", "lo"), "{0} < {1}"),
    **dict.fromkeys(("le", "ls"), "{0} <= {1}"),
    **dict.fromkeys(("gt", "hi"), "{0} > {1}"),
    **dict.fromkeys(("ge", "hs"), "{0} >= {1}"),
    # With u also true if one is NaN.
    "equ": f"({{0}} == {{1}}) | {_UNORDERED}",
    "neu": "{0} != {1}",
    "ltu": "~({0} >= {1})",
    "leu": "~({0} > {1})",
    "gtu": "~({0} <= {1})",
    "geu": "~({0} < {1})",
    "num": f"~({_UNORDERED})",
    "nan": _UNORDERED,
}
_REDUCTIONS = {
    "add": "np.add", "min": "np.minimum", "max": "np.maximum",
    "and": "np.bitwise_and", "or": "np.bitwise_or", "xor": "np.bitwise_xor",
}  # fmt: skip

#: Instructions by opcode, without type and `_NEUTRAL` modifiers; ".f" is for floating point only.
_FORMS = {
    "add": Form("{0} + {1}"),
    "sub": Form("{0} - {1}"),
    "mul": Form("{0} * {1}"),
    "mul.lo": Form("{0} * {1}"),
    "mul.hi": Form("multiply_high({0}, {1})"),
    "mul.wide": Form("multiply({0}, {1})", "t t", "w"),
    "mad.lo": Form("{0} * {1} + {2}"),
    "mad.wide": Form("multiply({0}, {1}) + {2}", "t t w", "w"),
    "fma": Form("add_product({0}, {1}, {2})"),
    "div": Form("divide({0}, {1})"),
    "div.f": Form("{0} / {1}"),
    "rem": Form("{0} - divide({0}, {1}) * {1}"),
    "and": Form("{0} & {1}"),
    "or": Form("{0} | {1}"),
    "xor": Form("{0} ^ {1}"),
    "not": Form("~{0}"),
    "neg": Form("-{0}"),
    "abs": Form("np.abs({0})"),
    "max": Form("np.maximum({0}, {1})"),
    "min": Form("np.minimum({0}, {1})"),
    "max.f": Form("np.fmax({0}, {1})"),
    "min.f": Form("np.fmin({0}, {1})"),
    "max.NaN.f": Form("np.maximum({0}, {1})"),
    "min.NaN.f": Form("np.minimum({0}, {1})"),
    "ex2": Form("np.exp2({0})"),
    "lg2": Form("np.log2({0})"),
    "sqrt": Form("np.sqrt({0})"),
    "rsqrt": Form("1 / np.sqrt({0})"),
    "rcp": Form("1 / {0}"),
    "shl": Form("shift_left({0}, {1})", "t u32"),
    "shr": Form("shift_right({0}, {1})", "t u32"),
    "bfe": Form("bit_field({0}, {1}, {2})", "t n n"),
    "bfi": Form("insert_bits({0}, {1}, {2}, {3})", "t t n n"),
    "lop3": Form("select_bits({0}, {1}, {2}, {3})", "t t t n"),
    "prmt": Form("select_bytes({0}, {1}, {2})", "t t n"),
    "popc": Form("np.bitwise_count({0}).astype(np.uint32)", "t", "u32"),
    "selp": Form("np.where({2}, {0}, {1})", "t t pred"),
    "cvta": Form("{0}"),
    "cvta.to.global": Form("{0}"),
    "cvta.param": Form("{0}"),
    **{f"setp.{name}": Form(x, "t t", "pred") for name, x in _COMPARISONS.items()},
    **{
        f"shfl.sync.{x}": Form(f"shuffle({{0}}, '{x}', {{1}}, {{2}}, batch.shape)", "t u32 n")
        for x in ("idx", "bfly", "up", "down")
    },
    **{
        f"redux.sync.{name}": Form(f"reduce_warp({{0}}, {function}, batch.shape)", "t")
        for name, function in _REDUCTIONS.items()
    },
}  # fmt: skip

#: Modifiers without an effect here. Denormals are not flushed.
_NEUTRAL = {"rn", "ftz", "approx", "full", "uni"}


def form_of(opcode: Sequence[str]) -> Form:
    """Return the form of an instruction.

    Raises:
        NotImplementedError: it has none.
    """
    *names, kind = (x for x in opcode if x not in _NEUTRAL)
    name = ".".join(names)
    found = _FORMS.get(name)
    if kind.startswith(("f", "bf")):
        found = _FORMS.get(f"{name}.f", found)
    if found is None:
        raise NotImplementedError("unknown instruction")
    return found
