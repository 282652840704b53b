"""Fixtures of the tests that compare fused parts with the model's own modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.reference import randomise_


@pytest.fixture(params=["sam2.1-tiny", "sam2-tiny", "nano"])
def model(request: pytest.FixtureRequest) -> SAM2VideoPredictor:
    """A predictor of 128 pixels with random weights, of each release and of nano."""
    with torch.inference_mode(False):
        predictor = build_sam2_video_predictor(
            request.param, device="cpu", hydra_overrides_extra=["++model.image_size=128"]
        )
        randomise_(predictor)
    return predictor


@pytest.fixture
def inference() -> Iterator[None]:
    """Run the test in inference mode."""
    with torch.inference_mode():
        yield
