"""Interleave the programs of a kernel in Triton's interpreter, which runs them one by one.

Before each memory access execution may switch to another program, chosen at random. A load may also
return an earlier value that the address held since the kernel began, as weakly ordered memory may.
Only one program runs at a time, so runs with the same seed are identical.
"""

from __future__ import annotations

import inspect
import math
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from triton.runtime import interpreter

__all__ = ["interleave"]


class _Programs:
    """Replacement of a kernel: collects the calls of its programs; the last call runs them all."""

    def __init__(self, kernel: Callable[..., None], seed: int) -> None:
        self.kernel = kernel
        self.random = random.Random(seed)
        self.past: defaultdict[int, list[Any]] = defaultdict(list)
        self.calls: list[tuple[tuple[int, int, int], dict[str, Any]]] = []
        self.turns: dict[int, threading.Semaphore] = {}
        self.this = threading.local()
        self.errors: list[Exception] = []
        # Attributes that the interpreter reads.
        self.__signature__ = inspect.signature(kernel)
        self.__annotations__ = kernel.__annotations__
        self.__globals__ = kernel.__globals__
        self.__name__ = kernel.__name__

    def __call__(self, **arguments: Any) -> None:
        builder = interpreter.interpreter_builder
        self.calls.append((builder.grid_idx, arguments))
        if len(self.calls) < math.prod(builder.grid_dim):
            return
        self.turns = {i: threading.Semaphore(0) for i in range(len(self.calls))}
        threads = [threading.Thread(target=self._run, args=(i,)) for i in self.turns]
        for thread in threads:
            thread.start()
        self._next().release()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _next(self) -> threading.Semaphore:
        return self.turns[self.random.choice(list(self.turns))]

    def _run(self, program: int) -> None:
        index, arguments = self.calls[program]
        self.this.turn = self.turns[program]
        self.this.turn.acquire()
        interpreter.interpreter_builder.set_grid_idx(*index)
        try:
            self.kernel(**arguments)
        except Exception as error:
            self.errors.append(error)
        del self.turns[program]
        if self.turns:
            self._next().release()

    def switch(self) -> None:
        """Continue with a random program, possibly this one."""
        following = self._next()
        if following is not self.this.turn:
            # The index is global state of the interpreter.
            index = interpreter.interpreter_builder.grid_idx
            following.release()
            self.this.turn.acquire()
            interpreter.interpreter_builder.set_grid_idx(*index)


def interleave(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Patch the interpreter to interleave the programs of kernels launched from here on."""
    builder = interpreter.interpreter_builder
    running: list[_Programs] = []
    init = interpreter.GridExecutor.__init__

    def start(self: Any, fn: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        running[:] = [_Programs(fn, seed)]
        init(self, running[0], *args, **kwargs)

    load, store, atomic = (
        getattr(builder, name)
        for name in ("create_masked_load", "create_masked_store", "create_atomic_rmw")
    )

    def remember(pointers: Any, mask: Any) -> None:
        held = load(pointers, mask, None, None, None, False).data
        for place, value in zip(pointers.data[mask.data], held[mask.data], strict=True):
            running[0].past[int(place)].append(value)

    def late_load(pointers: Any, mask: Any, *args: Any) -> Any:
        running[0].switch()
        loaded, choice = load(pointers, mask, *args), running[0].random
        for i in np.ndindex(pointers.data.shape):
            if mask.data[i] and (past := running[0].past.get(int(pointers.data[i]))):
                loaded.data[i] = choice.choice([loaded.data[i], *past])
        return loaded

    def watched_store(pointers: Any, value: Any, mask: Any, *args: Any) -> Any:
        running[0].switch()
        remember(pointers, mask)
        return store(pointers, value, mask, *args)

    def watched_atomic(operation: Any, pointers: Any, value: Any, mask: Any, *args: Any) -> Any:
        running[0].switch()
        remember(pointers, mask)
        return atomic(operation, pointers, value, mask, *args)

    monkeypatch.setattr(interpreter.GridExecutor, "__init__", start)
    monkeypatch.setattr(builder, "create_masked_load", late_load)
    monkeypatch.setattr(builder, "create_masked_store", watched_store)
    monkeypatch.setattr(builder, "create_atomic_rmw", watched_atomic)
