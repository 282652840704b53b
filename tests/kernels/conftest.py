"""Stand-ins for hypothesis and scipy, which a machine with a GPU may lack.

Property tests are skipped there; components are compared with the reference instead of scipy.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastsam2_kernels.dispatch import interpreting


class _Anything:
    """Stand-in for strategies and everything derived from them."""

    def __getattr__(self, name: str) -> _Anything:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Anything:
        return self


def _given(*_: Any, **__: Any) -> Callable[[Any], Any]:
    def skipped(test: Any) -> Any:
        def run() -> None:
            pytest.skip("needs hypothesis")

        run.__name__ = test.__name__
        return run

    return skipped


def _label(image: np.ndarray, structure: object) -> tuple[np.ndarray, int]:
    from fastsam2_kernels.connected_components.reference import connected_components_reference

    labels, _ = connected_components_reference(torch.from_numpy(image)[None])
    return labels[0].numpy(), int(labels.max())


def _module(name: str, **names: Any) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)


if importlib.util.find_spec("hypothesis") is None:
    _anything = _Anything()
    _module("hypothesis.extra", numpy=_anything)
    _module(
        "hypothesis",
        given=_given,
        settings=lambda **_: lambda test: test,
        assume=_anything,
        strategies=_anything,
    )
if importlib.util.find_spec("scipy") is None:
    _module("scipy", ndimage=types.SimpleNamespace(label=_label))


@pytest.fixture(autouse=True)
def _bfloat16() -> None:
    if interpreting() and importlib.util.find_spec("triton") is not None:
        from tests.kernels.interpreter_bf16 import install

        install()
