"""Fixtures of models and clips that need `sam2`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import reference, support  # the reference first: see tests/reference.py

__all__ = ["clip", "long_clip", "pair", "tiny_pair"]


def _marked(name: str) -> Any:
    """Mark the configs that take seconds to build as slow."""
    large = name.endswith(("large", "base_plus"))
    return pytest.param(name, marks=pytest.mark.slow if large else ())


@pytest.fixture(scope="session", params=map(_marked, reference.CONFIGS))
def pair(request: pytest.FixtureRequest) -> support.Pair:
    """Return `sam2`'s video predictor and ours with equal weights, at 256 px, for every config."""
    return support.make_pair(request.param)


@pytest.fixture(scope="session")
def tiny_pair() -> support.Pair:
    """Return the same for SAM 2.1 tiny with a shallow trunk."""
    return support.make_pair("sam2.1-tiny", overrides=support.SHALLOW)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of eight JPEG frames of 120 x 160."""
    return support.write_clip(tmp_path_factory.mktemp("clip"), frames=8)


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return twenty frames, more than the model has pointers of."""
    return support.write_clip(tmp_path_factory.mktemp("long_clip"), frames=20)
