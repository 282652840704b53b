"""Fixtures of the compatibility tests: both packages with the same weights, a checkpoint, clips."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import reference, support  # the reference first: see tests/reference.py
from tests.compat.clients import SIZE, Package


@pytest.fixture(scope="session")
def packages() -> tuple[Package, Package]:
    """Return `sam2` and fastsam2. Tests that change their predictors must use `fresh` instead."""
    pair = support.make_pair("sam2.1-tiny", SIZE, support.SHALLOW)
    return Package("sam2", pair.ref), Package("fastsam2", pair.ours)


@pytest.fixture
def fresh(packages: tuple[Package, Package]) -> tuple[Package, Package]:
    """Return both packages with new predictors, which the test may change."""
    ref, ours = (Package(p.name, copy.deepcopy(p.predictor)) for p in packages)
    return ref, ours


@pytest.fixture(scope="session")
def weights(packages: tuple[Package, Package], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an official checkpoint file with the weights of `packages`."""
    path = tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt"
    return reference.save_checkpoint(packages[0].predictor, path)


@pytest.fixture(scope="session")
def hub(packages: tuple[Package, Package], weights: Path) -> Callable[..., str]:
    """Replace `huggingface_hub.hf_hub_download` by a function that serves only that file."""

    def download(repo_id: str, filename: str, **_: object) -> str:
        assert repo_id == "facebook/sam2.1-hiera-tiny"
        assert filename == weights.name
        return str(weights)

    return download


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of five JPEG frames of 120 x 160."""
    return support.write_clip(tmp_path_factory.mktemp("video"), frames=5)
