"""Helpers that run one client on `sam2` and on fastsam2 and compare the outcomes."""

from __future__ import annotations

import contextlib
import importlib
import reprlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests import reference, support

__all__ = [
    "CLICK",
    "SIZE",
    "TINY",
    "Client",
    "Package",
    "agree",
    "assert_same",
    "click",
    "logits_of",
    "overrides",
]

#: Official YAML name of the model, and the side of its input, that compatibility tests use.
TINY, SIZE = "configs/sam2.1/sam2.1_hiera_t.yaml", 128

#: A click in pixels of the clips that `tests.support` makes.
CLICK = (50, 60)


@dataclass(frozen=True)
class Package:
    """`sam2` or fastsam2, with a video predictor; both predictors have the same weights."""

    name: str
    predictor: Any = field(repr=False)

    def module(self, path: str) -> ModuleType:
        """Import the module at this path below the package."""
        return importlib.import_module(f"{self.name}.{path}")

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Keep memory in float32, as tight tolerances require."""
        with reference.float32_memory() if self.name == "sam2" else contextlib.nullcontext():
            yield


Client = Callable[..., Any]


def overrides(*extra: str) -> list[str]:
    """Return Hydra overrides for a model small enough to build and run in a test."""
    return [f"++model.image_size={SIZE}", *support.SHALLOW, *extra]


def click(package: Package, state: Any, frame: int = 0, obj: Any = 1) -> Any:
    return package.predictor.add_new_points_or_box(
        state, frame_idx=frame, obj_id=obj, points=[list(CLICK)], labels=[1]
    )


def logits_of(frames: Any) -> list[Any]:
    """Collect the results of a propagation, with copies of reused lists and tensors."""
    return [(frame, list(ids), masks.clone()) for frame, ids, masks in frames]


def _outcome(client: Client, package: Package, *args: Any) -> Any:
    """Run the client; returns its result or the error it raises."""
    torch.manual_seed(0)
    with package.exact():
        try:
            return client(package, *args)
        except Exception as error:
            return error


def agree(client: Client, packages: tuple[Package, Package], *args: Any) -> Any:
    """Run the client on both packages, compare, and return its outcome on fastsam2."""
    expected, actual = (_outcome(client, package, *args) for package in packages)
    assert_same(actual, expected)
    return actual


def assert_same(actual: Any, expected: Any, where: str = "outcome") -> None:
    """Check that structure, types, shapes and dtypes are equal, and numbers within 1e-3 of their
    standard deviation.

    An error of fastsam2 may be of a class derived from that of `sam2`.
    """
    if isinstance(expected, Exception) or isinstance(actual, Exception):
        failed = isinstance(actual, Exception)
        shown = "".join(traceback.format_exception(actual)) if failed else reprlib.repr(actual)
        expected_shown = repr(expected) if isinstance(expected, Exception) else "an answer"
        assert isinstance(actual, type(expected)), f"{where}: {expected_shown} became {shown}"
    elif isinstance(expected, (torch.Tensor, np.ndarray)):
        assert isinstance(actual, type(expected)), where
        assert actual.shape == expected.shape, where
        assert actual.dtype == expected.dtype, where
        _assert_close(_array(actual), _array(expected), where)
    elif isinstance(expected, Mapping):
        assert isinstance(actual, Mapping), where
        assert list(actual) == list(expected), where
        for key, value in expected.items():
            assert_same(actual[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert type(actual) is type(expected), f"{where}: {type(actual)}"
        assert len(actual) == len(expected), f"{where}: {actual} instead of {expected}"
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert isinstance(actual, float), where
        assert abs(actual - expected) <= 1e-3 * max(abs(expected), 1e-3), where
    else:
        assert type(actual) is type(expected), f"{where}: {type(actual)}"
        assert actual == expected, where


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _assert_close(actual: np.ndarray, expected: np.ndarray, where: str) -> None:
    if expected.dtype.kind != "f":
        assert np.mean(actual != expected) <= 1e-3, where
        return
    assert np.isfinite(expected).all(), where
    scale = float(expected.std()) or float(np.abs(expected).max())
    worst = float(np.abs(actual - expected).max()) if expected.size else 0.0
    assert worst <= 1e-3 * scale, f"{where}: differs by {worst:g}, deviation {scale:g}"
