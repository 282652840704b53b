"""Compilation with torch.compile."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch.fx.experimental import _config as shape_config

from fastsam2.engine.runtime.cuda_graphs import DEVICE_LOCK
from fastsam2.engine.runtime.pytree import dynamic_dims, map_tensors

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
    """A function that a background thread compiles after its first calls.

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
        self._run = function
        self._compiled = compiled
        self._following = following
        self._left = after
        self._lock = threading.Lock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            self._left -= 1
            starts = self._left == -1
        if starts:
            inputs = map_tensors(args, torch.clone)
            modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
            threading.Thread(
                target=self._compile, args=(inputs, *modes), name="fastsam2-compile", daemon=True
            ).start()
        return self._run(*args, **kwargs)

    def _compile(self, inputs: Any, inference: bool, grad: bool) -> None:
        try:
            # Compiled functions are compiled again in other modes.
            with DEVICE_LOCK, torch.inference_mode(inference), torch.set_grad_enabled(grad):
                self._compiled(*inputs)
        except Exception as error:
            # A compiler may raise anything; the function works without it.
            _LOG.warning("the image encoder runs uncompiled: %s", str(error).splitlines()[0])
        else:
            self._run = self._following


def _keep_on_disk() -> None:
    """Set a cache folder that survives a restart; PyTorch's default is a temporary folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "fastsam2" / "compiled"))
