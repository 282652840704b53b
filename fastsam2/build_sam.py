"""Build SAM 2: the official functions with all their arguments, and without Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from fastsam2.checkpoints import load_checkpoint, resolve_model
from fastsam2.config import HF_MODEL_IDS, checkpoint_name, yaml_name
from fastsam2.engine.plan import Plan
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.building import build_image_model, build_tracker
from fastsam2.sam2_camera_predictor import SAM2CameraPredictor
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from fastsam2_kernels.dispatch import Impl

__all__ = [
    "HF_MODEL_ID_TO_FILENAMES",
    "build_sam2",
    "build_sam2_camera_predictor",
    "build_sam2_hf",
    "build_sam2_video_predictor",
    "build_sam2_video_predictor_hf",
]

#: Official YAML name and checkpoint file of each Hugging Face repository.
HF_MODEL_ID_TO_FILENAMES = {
    repo: (yaml_name(name), checkpoint_name(name)) for repo, name in HF_MODEL_IDS.items()
}


def _load_checkpoint(model: SAM2Base, ckpt_path: str | Path | None) -> None:
    """Load weights into a model; programs import this official name."""
    if ckpt_path is not None:
        load_checkpoint(model, ckpt_path)


def build_sam2(
    config_file: str | Path | None,
    ckpt_path: str | Path | None = None,
    device: torch.device | str | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    dtype: torch.dtype | None = None,
    impl: Impl | None = None,
    plan: Plan | Literal["auto"] | None = None,
    **kwargs: Any,
) -> SAM2Base:
    """Build the model for images.

    Args:
        config_file: a short name (`sam2.1-tiny`), Hugging Face id or official YAML name; None to
            infer the model from its checkpoint.
        ckpt_path: weights in any format `fastsam2.checkpoints` reads; None for random ones.
        device: by default CUDA where there is one, else the CPU.
        mode: `"eval"` or `"train"`.
        hydra_overrides_extra: such as `["++model.image_size=512"]`.
        apply_postprocessing: where one mask is asked for and is not stable, return the best of
            three.
        plan: how the model runs, see `fastsam2.Plan`. "auto": the fastest way on this device that
            needs no compiler, in half precision where that is fast. None: in float32.
        dtype, impl: override those of the plan.
        kwargs: ignored, as `sam2` ignores them.

    Raises:
        ConfigError: an unknown model, field or value.
        CheckpointError: weights that cannot be read or do not fit.
        DeviceError: a device that is not there.
    """
    return build_image_model(
        config_file,
        ckpt_path,
        device,
        mode,
        hydra_overrides_extra,
        apply_postprocessing,
        dtype,
        impl,
        plan,
    )


def build_sam2_video_predictor(
    config_file: str | Path | None,
    ckpt_path: str | Path | None = None,
    device: torch.device | str | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
    dtype: torch.dtype | None = None,
    memory_dtype: torch.dtype = torch.bfloat16,
    impl: Impl | None = None,
    plan: Plan | Literal["auto"] | None = None,
    **kwargs: Any,
) -> SAM2VideoPredictor:
    """Build the predictor for videos; arguments and errors as `build_sam2`, and:

    Args:
        apply_postprocessing: also fill holes of up to 8 pixels in the S / 4 wide masks, and
            remember prompted masks as the binary masks the user saw.
        vos_optimized: compile the image encoder and the whole tracking step, once for any number
            of objects, and on CUDA record them as graphs; the first frames are slow.
        memory_dtype: dtype of the memory maps kept between frames.
    """
    return build_tracker(
        SAM2VideoPredictor,
        config_file,
        ckpt_path,
        device,
        mode,
        hydra_overrides_extra,
        apply_postprocessing,
        vos_optimized,
        dtype,
        memory_dtype,
        impl,
        plan,
    )


def build_sam2_camera_predictor(
    config_file: str | Path | None,
    ckpt_path: str | Path | None = None,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> SAM2CameraPredictor:
    """Build the predictor for a camera; arguments and errors as `build_sam2_video_predictor`."""
    return build_tracker(SAM2CameraPredictor, config_file, ckpt_path, device, **kwargs)


def build_sam2_hf(model_id: str, **kwargs: Any) -> SAM2Base:
    """`build_sam2` with the weights of a Hugging Face repository, short name or local path."""
    return build_sam2(*resolve_model(model_id), **kwargs)


def build_sam2_video_predictor_hf(model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
    """`build_sam2_video_predictor` with the weights of a Hugging Face repository, short name or
    local path."""
    return build_sam2_video_predictor(*resolve_model(model_id), **kwargs)
