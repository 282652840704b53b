"""Fixtures shared by all tests: pairs of models with the same weights, and small clips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Read when a kernel is first imported: where there is no GPU, kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from tests import reference, support  # the reference first: see tests/reference.py


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=reference.CONFIGS)
def pair(request: pytest.FixtureRequest) -> support.Pair:
    """`sam2`'s video predictor and ours with the same weights, at 256 px, for every config."""
    return support.make_pair(request.param)


@pytest.fixture(scope="session")
def tiny_pair() -> support.Pair:
    """The same for SAM 2.1 tiny alone."""
    return support.make_pair("sam2.1-tiny")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight JPEG frames of 120 x 160."""
    return support.write_clip(tmp_path_factory.mktemp("clip"), frames=8)


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames: more than the model remembers pointers of."""
    return support.write_clip(tmp_path_factory.mktemp("long_clip"), frames=20)
