"""Build SAM 2: the official functions with all their arguments, and without Hydra."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from fastsam2.checkpoints import (
    infer_config,
    load_checkpoint,
    load_state_dict,
    read_hf_options,
    resolve_model,
)
from fastsam2.config import (
    CONFIGS,
    HF_MODEL_IDS,
    SAM2Config,
    apply_overrides,
    checkpoint_name,
    find_config,
    yaml_name,
)
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.compile import compile_image_encoder
from fastsam2.errors import ConfigError, DeviceError
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.model import VideoModel
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
    """The name that programs which load weights into a model of their own import."""
    if ckpt_path is not None:
        load_checkpoint(model, ckpt_path)


Model = TypeVar("Model", bound=SAM2Base)


def build_sam2(
    config_file: str | Path | None,
    ckpt_path: str | Path | None = None,
    device: torch.device | str | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> SAM2Base:
    """Build the model for images.

    Args:
        config_file: a short name (`sam2.1-tiny`), Hugging Face id or official YAML name; None to
            tell the model by its checkpoint.
        ckpt_path: weights in any format `fastsam2.checkpoints.load` reads; None for random ones.
        device: by default CUDA where there is one, else the CPU.
        mode: `"eval"` or `"train"`.
        hydra_overrides_extra: such as `["++model.image_size=512"]`.
        apply_postprocessing: where one mask is asked for and is not stable, answer with the best of
            three.
        dtype: of the weights, and so of the computation.
        kwargs: ignored, as `sam2` ignores them.

    Raises:
        ConfigError: an unknown model, field or value.
        CheckpointError: weights that cannot be read or do not fit.
        DeviceError: a device that is not there.
    """
    config, weights = _configure(config_file, ckpt_path)
    if apply_postprocessing:
        config = _with_stability(config)
    config = apply_overrides(config, hydra_overrides_extra)
    return _build(SAM2Base, config, weights, ckpt_path, _pick_device(device), mode, dtype)


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
        vos_optimized: compile the image encoder and the whole step of tracking, once for any number
            of objects, and on CUDA record them as graphs; the first frames are slow.
        memory_dtype: in which spatial memory is kept between frames.
        plan: how it runs, see `fastsam2.Plan`. "auto": the fastest way on this device
            that needs no compiler, in half precision where that is fast. None: in float32.
        dtype, impl: other values than the plan's.
    """
    return _build_tracker(
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
    return _build_tracker(SAM2CameraPredictor, config_file, ckpt_path, device, **kwargs)


Tracker = TypeVar("Tracker", bound=VideoModel)


def _build_tracker(
    cls: type[Tracker],
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
) -> Tracker:
    target = _pick_device(device)
    chosen = _choose_plan(plan, target, dtype, impl, vos_optimized)
    config, weights = _configure(config_file, ckpt_path)
    if apply_postprocessing:
        config = _with_stability(config)
        config = replace(config, binarize_mask_from_pts_for_mem_enc=True, fill_hole_area=8)
    config = apply_overrides(config, hydra_overrides_extra)

    def make(config: SAM2Config) -> Tracker:
        return cls(config, memory_dtype, chosen)

    return _build(make, config, weights, ckpt_path, target, mode, chosen.dtype)


def _choose_plan(
    plan: Plan | Literal["auto"] | None,
    device: torch.device,
    dtype: torch.dtype | None,
    impl: Impl | None,
    vos_optimized: bool,
) -> Plan:
    if isinstance(plan, Plan):
        chosen = plan
    elif plan in (None, "auto"):
        chosen = Plan.exact(device) if plan is None else Plan.auto(device)
    else:
        raise ConfigError(f'plan must be a Plan, "auto" or None, not {plan!r}')
    if vos_optimized:
        chosen = replace(chosen, compile=True, graphs=device.type == "cuda")
    chosen = replace(chosen, dtype=dtype or chosen.dtype, impl=impl or chosen.impl)
    chosen.check(device)
    return chosen


def build_sam2_hf(model_id: str, **kwargs: Any) -> SAM2Base:
    """`build_sam2` with the weights of a Hugging Face repository, short name or local path."""
    name, path = resolve_model(model_id)
    return build_sam2(name, path, **kwargs)


def build_sam2_video_predictor_hf(model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
    """`build_sam2_video_predictor` with the weights of a Hugging Face repository, short name or
    local path."""
    name, path = resolve_model(model_id)
    return build_sam2_video_predictor(name, path, **kwargs)


def _configure(
    config_file: str | Path | None, ckpt_path: str | Path | None
) -> tuple[SAM2Config, dict[str, torch.Tensor] | None]:
    """The named configuration, or the one that the weights tell; and the weights.

    What transformers wrote beside the weights, such as the image size of a fine-tune, holds too.
    """
    name = None
    if config_file is not None:
        name = find_config(str(config_file))
        if name is None:
            near = difflib.get_close_matches(str(config_file), _KNOWN, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown model {str(config_file)!r}; nearest is {near!r}")
    elif ckpt_path is None:
        raise ConfigError("name a model or a checkpoint")
    weights = None if ckpt_path is None else load_state_dict(ckpt_path)
    if name is None:
        assert weights is not None
        name = infer_config(weights)
    options = {} if ckpt_path is None else read_hf_options(Path(ckpt_path))
    return replace(CONFIGS[name], **options), weights


_KNOWN = [*CONFIGS, *HF_MODEL_IDS, *(yaml for yaml, _ in HF_MODEL_ID_TO_FILENAMES.values())]


def _with_stability(config: SAM2Config) -> SAM2Config:
    decoder = replace(
        config.sam_mask_decoder_extra_args,
        dynamic_multimask_via_stability=True,
        dynamic_multimask_stability_delta=0.05,
        dynamic_multimask_stability_thresh=0.98,
    )
    return replace(config, sam_mask_decoder_extra_args=decoder)


def _build(
    make: Callable[[SAM2Config], Model],
    config: SAM2Config,
    weights: dict[str, torch.Tensor] | None,
    ckpt_path: str | Path | None,
    device: torch.device,
    mode: str,
    dtype: torch.dtype,
) -> Model:
    if mode not in ("eval", "train"):
        raise ConfigError(f"mode must be 'eval' or 'train', not {mode!r}")
    with torch.device("cpu" if weights is None else "meta"):
        model = make(config)
    # Buffers stay float32: coordinates are encoded with them.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if weights is None:
        model.to(device)
    else:
        load_checkpoint(model, weights, device=device, name=str(ckpt_path))
    model.train(mode == "train")
    if config.compile_image_encoder:
        compile_image_encoder(model)
    return model


def _pick_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {device!r}: {str(error).splitlines()[0]}") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {str(device)!r} was asked for, but this machine or this build of PyTorch "
            f"({torch.__version__}) has no CUDA; use device='cpu'"
        )
    return target
