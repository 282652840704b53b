"""Renewal of locks, threads and decoders in a forked process."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol

__all__ = ["leak", "renew_in_child"]


class Renewable(Protocol):
    """Object that a fork can leave with a held lock or without its thread."""

    def renew(self) -> None:
        """Replace locks, threads and decoders. Called in the child, before other code runs."""


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(item: Renewable) -> None:
    """Call `item.renew()` in each process forked from this one while `item` lives.

    A fork copies only the calling thread: locks that another one holds stay locked in the child.
    """
    _known.add(item)


def leak(item: object) -> None:
    """Keep an object for ever: freeing it would wait for threads of the parent process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


def _renew_all() -> None:
    for item in list(_known):
        item.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
