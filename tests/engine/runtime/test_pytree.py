"""Tensors are found and mapped in nested containers, except those in `StaticInputs` records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastsam2.engine.runtime.pytree import StaticInputs, map_tensors, static_tensors, tensors


@dataclass(frozen=True)
class Table(StaticInputs):
    rows: Tensor
    pair: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Frame:
    maps: list[Tensor] | None
    table: Table
    name: str


class Found(NamedTuple):
    mask: Tensor
    score: Tensor


def value() -> tuple[object, list[Tensor]]:
    x = list(torch.arange(7.0).split(1))
    table = Table(x[4], (x[5], x[6]))
    return (
        Frame([x[0], x[1]], table, "a"),
        {"b": Found(x[2], x[3])},
        Frame(None, table, "c"),
        3,
    ), x


def test_all_are_found_in_order() -> None:
    whole, x = value()
    assert all(a is b for a, b in zip(tensors(whole), x[:4], strict=True))
    assert all(a is b for a, b in zip(static_tensors(whole), [*x[4:], *x[4:]], strict=True))


def test_all_but_static_ones_are_mapped() -> None:
    whole, x = value()
    new = map_tensors(whole, lambda t: t + 10)
    assert [float(t) for t in tensors(new)] == [10, 11, 12, 13]
    first, second, third, number = new  # type: ignore[misc]
    assert first.table is third.table
    assert first.table.rows is x[4]
    assert type(second["b"]) is Found
    assert (first.name, third.maps, number) == ("a", None, 3)
