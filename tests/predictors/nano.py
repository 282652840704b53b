"""The small model with random weights of the tests of sessions."""

from __future__ import annotations

from typing import Any

from fastsam2 import SAM2VideoPredictor, build_sam2_video_predictor
from tests.reference import randomise_

__all__ = ["nano_predictor"]


def nano_predictor(seed: int = 0, **kwargs: Any) -> SAM2VideoPredictor:
    """Build a predictor with an input of 128 pixels."""
    model = build_sam2_video_predictor(
        "nano", device="cpu", hydra_overrides_extra=["++model.image_size=128"], **kwargs
    )
    randomise_(model, seed=seed)
    return model
