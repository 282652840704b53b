"""Faults of a kernel: reported with file and line, once for each instruction."""

from __future__ import annotations

from typing import NoReturn

from tests.emulator.ptx import Instruction

__all__ = ["EmulationError", "Faults"]


class EmulationError(RuntimeError):
    """A kernel does what a GPU forbids or leaves undefined."""


class Faults:
    """Faults that a launch has shown so far.

    Args:
        kernel: its name.
    """

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.found: dict[tuple[str, str], str] = {}

    def add(self, kind: str, instruction: Instruction, detail: str = "") -> None:
        """Record a fault with which execution can continue."""
        self.found.setdefault((kind, str(instruction)), detail)

    def stop(self, kind: str, instruction: Instruction, detail: str = "") -> NoReturn:
        """Record a fault with which execution cannot continue, and raise all.

        Raises:
            EmulationError: always.
        """
        self.add(kind, instruction, detail)
        self.check()
        raise AssertionError

    def check(self) -> None:
        """Raise the faults found.

        Raises:
            EmulationError: there are faults.
        """
        if self.found:
            lines = [
                f"{kind} at {place}" + f" ({detail})" * bool(detail)
                for (kind, place), detail in self.found.items()
            ]
            raise EmulationError(f"{self.kernel}:\n  " + "\n  ".join(lines))
