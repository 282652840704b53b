"""Builders of SAM 2: the official functions with all their arguments, without Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastsam2.checkpoints import load_checkpoint, resolve_model
from fastsam2.config import HF_MODEL_IDS, checkpoint_name, yaml_name
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.building import PlanLike, build_image_model, build_tracker
from fastsam2_kernels.dispatch import Impl

if TYPE_CHECKING:
    from fastsam2.sam2_camera_predictor import SAM2CameraPredictor
    from fastsam2.sam2_video_predictor import SAM2VideoPredictor

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


def _hf_download(model_id: str) -> tuple[str | None, str | Path]:
    """Return configuration and checkpoint of a model, downloaded if it must be."""
    return resolve_model(model_id)


def build_sam2(
    config_file: str | Path | None,
    ckpt_path: str | Path | None = None,
    device: torch.device | str | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    dtype: torch.dtype | None = None,
    impl: Impl | None = None,
    plan: PlanLike = None,
    **kwargs: Any,
) -> SAM2Base:
    """Build the model for images.

    Args:
        config_file: a short name (`sam2.1-tiny`), Hugging Face id, official YAML name, or a YAML
            file of your own in the format of `sam2`; None to infer the model from its checkpoint.
        ckpt_path: weights in any format `fastsam2.checkpoints` reads; None for random ones.
        device: by default CUDA if available, else the CPU.
        mode: `"eval"` or `"train"`.
        hydra_overrides_extra: overrides of the configuration, such as
            `["++model.image_size=512"]`.
        apply_postprocessing: return the best of three masks if one mask is requested and is not
            stable.
        plan: execution plan, see `fastsam2.Plan`. "auto": the fastest on this device without
            `torch.compile`, in half precision if that is fast. None: float32, and on CUDA graphs
            of steady frames. "eager": float32 without graphs. The environment variable
            FASTSAM2_PLAN replaces None.
        dtype, impl: override those of the plan.
        kwargs: ignored, as in `sam2`.

    Raises:
        ConfigError: an unknown model, field or value.
        CheckpointError: the weights cannot be read or do not fit the model.
        DeviceError: the device is not available or does not support the plan.
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
    plan: PlanLike = None,
    **kwargs: Any,
) -> SAM2VideoPredictor:
    """Build the predictor for videos.

    Args:
        apply_postprocessing: also fill holes of up to 8 pixels in the S / 4 wide masks, and
            binarize masks of prompted frames before they are encoded into memory.
        vos_optimized: compile the image encoder and the whole tracking step, once for any number
            of objects, and on CUDA record them as graphs; the first frames are slow.
        memory_dtype: dtype of the memory maps kept between frames.

    Other arguments and errors are those of `build_sam2`.
    """
    # Programs replace `fastsam2.utils.misc.load_video_frames` before the predictor is imported.
    from fastsam2.sam2_video_predictor import SAM2VideoPredictor

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
    """Build the predictor for a camera; arguments and errors are those of
    `build_sam2_video_predictor`."""
    from fastsam2.sam2_camera_predictor import SAM2CameraPredictor

    return build_tracker(SAM2CameraPredictor, config_file, ckpt_path, device, **kwargs)


def build_sam2_hf(model_id: str, **kwargs: Any) -> SAM2Base:
    """Build the model for images with the weights of a Hugging Face repository, short name or local
    path; `kwargs` are arguments of `build_sam2`."""
    return build_sam2(*resolve_model(model_id), **kwargs)


def build_sam2_video_predictor_hf(model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
    """Build the predictor for videos with the weights of a Hugging Face repository, short name or
    local path; `kwargs` are arguments of `build_sam2_video_predictor`."""
    return build_sam2_video_predictor(*resolve_model(model_id), **kwargs)
