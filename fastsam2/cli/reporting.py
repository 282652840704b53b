"""How the program ends when something goes wrong: one line, an exit code, no traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from fastsam2.errors import ConfigError, FastSAM2Error, InputError

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "USAGE",
    "ErrorList",
    "OneLineGroup",
    "fail",
    "report_errors",
    "undivided",
]

FAILURE = 1
USAGE = 2
INTERRUPTED = 130


def fail(message: object, code: int = FAILURE) -> typer.Exit:
    """Prints `message` on stderr as one line; the exception to raise."""
    line = " ".join(str(message).split())
    typer.echo(f"fastsam2: {line}", err=True)
    return typer.Exit(code)


@contextmanager
def report_errors(epilogue: Callable[[], str] = str) -> Iterator[None]:
    """Turns errors that the user can do something about into one line and an exit code.

    Args:
        epilogue: gives what to add to the line.
    """
    try:
        yield
    except BaseException as error:
        explained = _explain(error)
        if explained is None:
            raise
        message, code = explained
        raise fail(message + epilogue(), code) from None


def _explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code for what is no bug."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, (InputError, ConfigError)):
        return str(error), USAGE
    if isinstance(error, (FastSAM2Error, OSError)):
        return str(error), FAILURE
    # torch's class is not named here so that --help need not import torch.
    if type(error).__name__ == "OutOfMemoryError":
        return "out of GPU memory: try a smaller --image-size", FAILURE
    return None


class ErrorList:
    """Errors of several inputs: one must not keep the others from being done."""

    def __init__(self) -> None:
        self._found: list[tuple[str, int]] = []

    @contextmanager
    def put_off(self, name: str = "", epilogue: Callable[[], str] = str) -> Iterator[None]:
        """Notes what `report_errors` would report; Ctrl-C, though, ends it all.

        Args:
            name: the input's, to go before a message that does not hold it.
            epilogue: gives what to add to the line.
        """
        try:
            yield
        except BaseException as error:
            explained = _explain(error)
            if explained is None:
                raise
            message, code = explained
            start = f"{name}: " if name not in message else ""
            self._found.append((f"{start}{message}{epilogue()}", code))
            if code == INTERRUPTED:
                self.report()

    def report(self) -> None:
        """Prints a line for each; raises the exit with the highest of their codes, if any."""
        exits = [fail(message, code) for message, code in self._found]
        if exits:
            raise max(exits, key=lambda exit: exit.exit_code)


@contextmanager
def undivided() -> Iterator[None]:
    """Puts off Ctrl-C to the end of the block, so that what it writes belongs together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[0])


class OneLineGroup(TyperGroup):
    """Commands whose usage errors, too, are one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("standalone_mode", True):
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except Exception as error:
            # Click's usage errors, whichever package holds Click.
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            path = getattr(context, "command_path", "fastsam2")
            typer.echo(f"fastsam2: {_sentence(error)} (see `{path} --help`)", err=True)
            sys.exit(getattr(error, "exit_code", USAGE))
        sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Any) -> str:
    return " ".join(str(error.format_message()).split()).rstrip(".")
