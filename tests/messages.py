"""Check of the messages of the package's errors."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["one_line"]


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    """Return the message; checks that it is one line and that no other traceback is chained."""
    message = str(error.value)
    assert "\n" not in message
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return message
