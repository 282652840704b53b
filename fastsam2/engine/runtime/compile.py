"""Compilation with torch.compile."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch.fx.experimental import _config as shape_config

from fastsam2.engine.runtime.cuda_graphs import DEVICE_LOCK
from fastsam2.engine.runtime.pytree import dynamic_dims, map_tensors, tensors

__all__ = ["Compiled", "CompiledLater"]

_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Limit on compilations, high enough never to be reached; each model and image size needs one.
_MANY = 1024


class Compiled(Generic[P, T]):
    """A function of tensors compiled as a whole: once for all sizes of the `DYNAMIC` dimensions of
    its arguments, and once for each value of the other sizes.

    Args:
        function: a function of tensors, such as a `TrackStep`.
        options: passed to `torch.compile`.
    """

    def __init__(self, function: Callable[P, T], **options: Any) -> None:
        _keep_on_disk()
        # Sizes that are not marked as dynamic are static. `mark_static` would stay on the tensors,
        # which are arguments of other functions too, and would cause another compilation.
        self._run = torch.compile(function, fullgraph=True, dynamic=False, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        for argument in args:
            for tensor, dim in dynamic_dims(argument):
                torch._dynamo.mark_dynamic(tensor, dim)
        with (
            # One object is a batch of one: do not specialise on sizes 0 and 1.
            shape_config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
            # PyTorch counts the compilations of all models of a program together.
            torch._dynamo.config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY),
        ):
            return self._run(*args, **kwargs)


class CompiledLater(Generic[P, T]):
    """A function that a background thread compiles, for each shape of its arguments after some
    calls with it.

    Args:
        function: runs until then.
        compiled: called once in the background, with copies of the arguments.
        following: runs from then on.
        after: calls before the compilation starts.
    """

    def __init__(
        self,
        function: Callable[P, T],
        compiled: Callable[..., T],
        following: Callable[P, T],
        after: int,
    ) -> None:
        self._function = function
        self._compiled = compiled
        self._following = following
        self._after = after
        self._calls: Counter[Hashable] = Counter()
        self._ready: set[Hashable] = set()
        self._lock = threading.Lock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        # Compiled functions are compiled again in other modes.
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        key = modes, *((x.shape, x.dtype) for x in tensors(args))
        with self._lock:
            self._calls[key] += 1
            starts = self._calls[key] == self._after + 1
        if starts:
            inputs = map_tensors(args, torch.clone)
            threading.Thread(
                target=self._compile, args=(key, inputs, *modes), name="fastsam2-compile",
                daemon=True,
            ).start()  # fmt: skip
        return (self._following if key in self._ready else self._function)(*args, **kwargs)

    def _compile(self, key: Hashable, inputs: Any, inference: bool, grad: bool) -> None:
        try:
            with DEVICE_LOCK, torch.inference_mode(inference), torch.set_grad_enabled(grad):
                self._compiled(*inputs)
        except Exception as error:
            # A compiler may raise anything; the function works without it.
            _LOG.warning("the image encoder runs uncompiled: %s", str(error).splitlines()[0])
        else:
            self._ready.add(key)


def _keep_on_disk() -> None:
    """Set a cache folder that survives a restart; PyTorch's default is a temporary folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "fastsam2" / "compiled"))
