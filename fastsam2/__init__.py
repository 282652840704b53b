"""fastsam2: SAM 2 inference with the official weights, interface and numbers.

The names below are the complete everyday interface; the modules of `sam2` have the same paths in
this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
    from fastsam2.build_sam import (
        build_sam2,
        build_sam2_hf,
        build_sam2_video_predictor,
        build_sam2_video_predictor_hf,
    )
    from fastsam2.engine.plan import Plan
    from fastsam2.errors import FastSAM2Error
    from fastsam2.sam2_image_predictor import SAM2ImagePredictor
    from fastsam2.sam2_stream_predictor import SAM2StreamPredictor
    from fastsam2.sam2_video_predictor import SAM2VideoPredictor

__version__ = "0.1.0"

__all__ = [
    "FastSAM2Error",
    "Plan",
    "SAM2AutomaticMaskGenerator",
    "SAM2ImagePredictor",
    "SAM2StreamPredictor",
    "SAM2VideoPredictor",
    "__version__",
    "build_sam2",
    "build_sam2_hf",
    "build_sam2_video_predictor",
    "build_sam2_video_predictor_hf",
]

_HOMES = {
    "FastSAM2Error": "errors",
    "Plan": "engine.plan",
    "SAM2AutomaticMaskGenerator": "automatic_mask_generator",
    "SAM2ImagePredictor": "sam2_image_predictor",
    "SAM2StreamPredictor": "sam2_stream_predictor",
    "SAM2VideoPredictor": "sam2_video_predictor",
    "build_sam2": "build_sam",
    "build_sam2_hf": "build_sam",
    "build_sam2_video_predictor": "build_sam",
    "build_sam2_video_predictor_hf": "build_sam",
}


def _prepare_hydra() -> None:
    """Let Hydra find the packaged configurations, unless a program has given it others.

    Programs written for `sam2` call `compose` and `instantiate` themselves. This package uses its
    own configurations and does not need Hydra.
    """
    try:
        from hydra import initialize_config_module
        from hydra.core.global_hydra import GlobalHydra
    except ImportError:
        return
    if not GlobalHydra.instance().is_initialized():
        initialize_config_module("fastsam2", version_base="1.2")


_prepare_hydra()


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that `import fastsam2` and `fastsam2 --help` do not load
    torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fastsam2' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"fastsam2.{_HOMES[name]}"), name)
