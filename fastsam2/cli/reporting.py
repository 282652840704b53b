"""Error reporting: one line on stderr and an exit code instead of a traceback."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from fastsam2.errors import ConfigError, FastSAM2Error, InputError, first_line

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

_LONGEST_LINE = 2000  # characters


def fail(message: object, code: int = FAILURE) -> typer.Exit:
    """Print `message` on stderr as one line and return the exception to raise."""
    line = " ".join(str(message).split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
    typer.echo(f"fastsam2: {line}", err=True)
    return typer.Exit(code)


@contextmanager
def report_errors(epilogue: Callable[[], str] = str) -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code.

    Args:
        epilogue: returns text to append to the line; called when an error occurs.
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
    """Return message and exit code of an error; None for one that Click or Python handles."""
    if isinstance(error, (SystemExit, GeneratorExit, typer.Exit, typer.Abort, _ClickException)):
        return None
    if isinstance(error, _Stopped):
        return f"stopped by {error.signal.name}", 128 + error.signal
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, (InputError, ConfigError)):
        return str(error), USAGE
    if isinstance(error, (FastSAM2Error, OSError)):
        return str(error), FAILURE
    # By name, so that --help does not import torch.
    if type(error).__name__ == "OutOfMemoryError":
        return "out of GPU memory: try a smaller --image-size", FAILURE
    if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        return f"out of memory: try a smaller --image-size ({first_line(error)})", FAILURE
    kind, place = type(error).__name__, _place(error)
    return f"unexpected error, {kind} in {place}: {first_line(error)}", FAILURE


# PyTorch raises RuntimeError if an allocation on the CPU fails.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


def _place(error: BaseException) -> str:
    """File and line that raised the error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name} line {frame.lineno}"


# Click's classes, by way of Typer: newer releases of Typer bundle their own copy of Click.
_UsageError: Any = typer.BadParameter.__base__
_ClickException: Any = _UsageError.__base__


class ErrorList:
    """Errors of several inputs, so that one failing input does not stop the others."""

    def __init__(self) -> None:
        self._found: list[tuple[str, int]] = []

    @contextmanager
    def collect(self, name: str = "", epilogue: Callable[[], str] = str) -> Iterator[None]:
        """Record an error and go on; Ctrl-C or a signal to stop reports all errors and exits.

        Args:
            name: name of the input, put before a message that does not contain it.
            epilogue: returns text to append to the message; called when an error occurs.

        Raises:
            typer.Exit: on Ctrl-C or a signal to stop.
        """
        try:
            yield
        except BaseException as error:
            explained = _explain(error)
            if explained is None:
                raise
            message, code = explained
            prefix = f"{name}: " if name not in message else ""
            self._found.append((f"{prefix}{message}{epilogue()}", code))
            if isinstance(error, KeyboardInterrupt):
                self.report()

    def report(self) -> None:
        """Print one line per error; if there are any, raise `typer.Exit` with the highest code."""
        exits = [fail(message, code) for message, code in self._found]
        if exits:
            raise max(exits, key=lambda exit: exit.exit_code)


class _Stopped(KeyboardInterrupt):
    """Signal to stop; handled like Ctrl-C, so that results are completed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


# Windows has no SIGHUP.
_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

_Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def _handled(handlers: dict[int, _Handler]) -> Iterator[None]:
    """Set signal handlers, by number, for the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undivided() -> Iterator[None]:
    """Defer Ctrl-C and signals to stop to the end of the block, so that files written in it stay
    consistent."""
    pressed: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_STOPPING)}
    later = [number for number, handler in before.items() if callable(handler)]
    with _handled(dict.fromkeys(later, lambda *arguments: pressed.append(arguments))):
        yield
    if pressed:
        handler = before[pressed[0][0]]
        assert callable(handler)
        handler(*pressed[0])


class OneLineGroup(TyperGroup):
    """Command group that prints every error, also of usage, as one line."""

    def invoke(self, ctx: Any) -> Any:
        # `nohup` and shells ignore signals for programs in the background.
        default = [n for n in _STOPPING if signal.getsignal(n) is signal.SIG_DFL]
        with report_errors(), _handled(dict.fromkeys(default, _stop)):
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("standalone_mode", True):
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except _UsageError as error:
            context = getattr(error, "ctx", None)
            path = getattr(context, "command_path", "fastsam2")
            typer.echo(f"fastsam2: {_sentence(error)} (see `{path} --help`)", err=True)
            sys.exit(getattr(error, "exit_code", USAGE))
        sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Any) -> str:
    return " ".join(str(error.format_message()).split()).rstrip(".")
