"""Builders of models from a configuration and a checkpoint, without Hydra."""

from __future__ import annotations

import difflib
import os
import sys
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
)
from fastsam2.config import (
    CONFIGS,
    HF_MODEL_IDS,
    SAM2Config,
    apply_overrides,
    find_config,
    yaml_name,
)
from fastsam2.config_file import config_from_mapping, read_config
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import Runner
from fastsam2.errors import CheckpointError, ConfigError, DeviceError
from fastsam2.modeling.from_config import model_arguments, video_arguments
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.model import VideoModel
from fastsam2_kernels.dispatch import Impl

__all__ = ["PLAN_VARIABLE", "PlanLike", "build_image_model", "build_tracker"]

#: Environment variable with the plan of models built without one: "auto" or "eager".
PLAN_VARIABLE = "FASTSAM2_PLAN"
PlanLike = Plan | Literal["auto", "eager"] | None

Model = TypeVar("Model", bound=SAM2Base)
Tracker = TypeVar("Tracker", bound=VideoModel)


def build_image_model(
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
    """Build the model for images; see `fastsam2.build_sam.build_sam2`."""
    target = _pick_device(device)
    chosen = _choose_plan(plan, target, dtype, impl, vos_optimized=False)
    config, weights = _configure(config_file, ckpt_path)
    if apply_postprocessing:
        config = _with_stability(config)
    config = apply_overrides(config, hydra_overrides_extra)
    if config.compile_image_encoder:
        chosen = chosen.with_compiled_encoder()

    def make(config: SAM2Config) -> SAM2Base:
        model = SAM2Base(**model_arguments(config))
        model.runner, model.impl = Runner(chosen), chosen.impl
        return model

    return _build(make, config, weights, ckpt_path, target, mode, chosen.dtype)


def build_tracker(
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
    plan: PlanLike = None,
    **kwargs: Any,
) -> Tracker:
    """Build a predictor of class `cls`; see `fastsam2.build_sam.build_sam2_video_predictor`."""
    target = _pick_device(device)
    chosen = _choose_plan(plan, target, dtype, impl, vos_optimized)
    config, weights = _configure(config_file, ckpt_path)
    if apply_postprocessing:
        config = _with_stability(config)
        config = replace(config, binarize_mask_from_pts_for_mem_enc=True, fill_hole_area=8)
    config = apply_overrides(config, hydra_overrides_extra)

    def make(config: SAM2Config) -> Tracker:
        arguments = model_arguments(config) | video_arguments(config)
        return cls(memory_dtype=memory_dtype, plan=chosen, **arguments)

    return _build(make, config, weights, ckpt_path, target, mode, chosen.dtype)


def _choose_plan(
    plan: PlanLike,
    device: torch.device,
    dtype: torch.dtype | None,
    impl: Impl | None,
    vos_optimized: bool,
) -> Plan:
    named = os.environ.get(PLAN_VARIABLE) or None if plan is None else plan
    if isinstance(named, Plan):
        chosen = named
    elif named is None:
        chosen = Plan.exact(device, impl or "auto")
    elif named in ("auto", "eager"):
        chosen = Plan.auto(device) if named == "auto" else Plan.eager(device)
    else:
        raise ConfigError(
            f'plan must be a Plan, "auto", "eager" or None, not {named!r}; '
            f"the environment variable {PLAN_VARIABLE} replaces None"
        )
    if vos_optimized:
        chosen = replace(chosen, compile=True, graphs=device.type == "cuda")
    chosen = replace(chosen, dtype=dtype or chosen.dtype, impl=impl or chosen.impl)
    chosen.check(device)
    return chosen


def _configure(
    config_file: str | Path | None, ckpt_path: str | Path | None
) -> tuple[SAM2Config, dict[str, torch.Tensor] | None]:
    """Return the weights, and the named configuration or the one inferred from them.

    Options that transformers stored with the weights, such as the image size, are applied.
    """
    config = None if config_file is None else _named_config(str(config_file))
    if config is None and ckpt_path is None:
        raise ConfigError("either config_file or ckpt_path must be given")
    weights = None if ckpt_path is None else load_state_dict(ckpt_path)
    if config is None:
        assert weights is not None
        try:
            config = CONFIGS[infer_config(weights)]
        except CheckpointError as error:
            raise CheckpointError(f"{ckpt_path}: {error}") from None
    options = {} if ckpt_path is None else read_hf_options(Path(ckpt_path))
    return replace(config, **options), weights


def _named_config(name: str) -> SAM2Config:
    """Return the configuration of a known model, of a YAML file, or of a client's Hydra.

    Raises:
        ConfigError: there is none of this name, or it cannot be read.
    """
    known = find_config(name)
    # Hydra takes an absolute path with two slashes.
    path = Path(f"/{name.lstrip('/')}" if name.startswith("/") else name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return read_config(path)
    if known is not None:
        return CONFIGS[known]
    config = _hydra_config(name)
    if config is None:
        near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no file and no known model {name!r}; nearest is {near!r}")
    return config


def _hydra_config(name: str) -> SAM2Config | None:
    """Return a configuration from the folder that a program has given to Hydra; None if it has
    given none, or has no such file."""
    if "hydra" not in sys.modules:
        return None
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    if not GlobalHydra.instance().is_initialized():
        return None
    try:
        found = OmegaConf.to_container(compose(name), resolve=True)
    except HydraException:
        return None
    if not isinstance(found, dict) or "model" not in found:
        raise ConfigError(f"Hydra's configuration {name!r} has no group 'model'")
    return config_from_mapping(found["model"])


_KNOWN = [*CONFIGS, *HF_MODEL_IDS, *(yaml_name(name) for name in HF_MODEL_IDS.values())]


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
            f"device {str(device)!r} is not available: this machine or this build of PyTorch "
            f"({torch.__version__}) has no CUDA; use device='cpu'"
        )
    return target
