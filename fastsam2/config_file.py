"""Configurations as YAML files in the format of `sam2`, for Hydra and for models of one's own."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastsam2.config import (
    VIDEO_FIELDS,
    HieraConfig,
    ImageEncoderConfig,
    MaskDownSamplerConfig,
    MemoryAttentionConfig,
    MemoryAttentionLayerConfig,
    MemoryEncoderConfig,
    NeckConfig,
    RoPEAttentionConfig,
    SAM2Config,
)
from fastsam2.errors import ConfigError

__all__ = ["config_from_mapping", "config_to_mapping", "read_config", "write_config"]

#: Values of fields that a file leaves out: the defaults of the classes of `sam2`.
ABSENT = SAM2Config(
    image_encoder=ImageEncoderConfig(
        trunk=HieraConfig(
            stages=(2, 3, 16, 3),
            window_pos_embed_bkg_spatial_size=(14, 14),
            global_att_blocks=(12, 16, 20),
        ),
        neck=NeckConfig(fpn_interp_model="bilinear", fpn_top_down_levels=(0, 1, 2, 3)),
        scalp=0,
    ),
    memory_attention=MemoryAttentionConfig(
        layer=MemoryAttentionLayerConfig(
            self_attention=RoPEAttentionConfig(dropout=0.0),
            cross_attention=RoPEAttentionConfig(dropout=0.0),
        ),
    ),
    memory_encoder=MemoryEncoderConfig(
        mask_downsampler=MaskDownSamplerConfig(kernel_size=4, stride=4, padding=0),
    ),
    image_size=512,
    sigmoid_scale_for_mem_enc=1.0,
    sigmoid_bias_for_mem_enc=0.0,
    no_obj_embed_spatial=False,
    directly_add_no_mem_embed=False,
    use_obj_ptrs_in_encoder=False,
    proj_tpos_enc_in_obj_ptrs=False,
    use_signed_tpos_enc_to_obj_ptrs=False,
    only_obj_ptrs_in_the_past_for_eval=False,
    use_mlp_for_obj_ptr_proj=False,
    use_multimask_token_for_obj_ptr=False,
    use_mask_input_as_output_without_sam=False,
    use_high_res_features_in_sam=False,
    iou_prediction_use_sigmoid=False,
    multimask_output_in_sam=False,
    multimask_output_for_tracking=False,
    multimask_min_pt_num=1,
    pred_obj_scores=False,
    pred_obj_scores_mlp=False,
    fixed_no_obj_ptr=False,
)

_MODELING = "fastsam2.modeling"
#: Class of each group of fields, by its path.
_TARGETS = {
    "": f"{_MODELING}.sam2_base.SAM2Base",
    "image_encoder": f"{_MODELING}.backbones.image_encoder.ImageEncoder",
    "image_encoder.trunk": f"{_MODELING}.backbones.hieradet.Hiera",
    "image_encoder.neck": f"{_MODELING}.backbones.image_encoder.FpnNeck",
    "memory_attention": f"{_MODELING}.memory_attention.MemoryAttention",
    "memory_attention.layer": f"{_MODELING}.memory_attention.MemoryAttentionLayer",
    "memory_attention.layer.self_attention": f"{_MODELING}.sam.transformer.RoPEAttention",
    "memory_attention.layer.cross_attention": f"{_MODELING}.sam.transformer.RoPEAttention",
    "memory_encoder": f"{_MODELING}.memory_encoder.MemoryEncoder",
    "memory_encoder.mask_downsampler": f"{_MODELING}.memory_encoder.MaskDownSampler",
    "memory_encoder.fuser": f"{_MODELING}.memory_encoder.Fuser",
    "memory_encoder.fuser.layer": f"{_MODELING}.memory_encoder.CXBlock",
}
_POSITIONS = f"{_MODELING}.position_encoding.PositionEmbeddingSine"
#: Groups with a position encoding, and the field with its number of channels.
_PLACED = {"image_encoder.neck": "d_model", "memory_encoder": "out_dim"}
#: Classes that a video predictor's file may name for the model.
_PREDICTORS = ("SAM2VideoPredictor", "SAM2VideoPredictorVOS", "SAM2CameraPredictor")


def config_to_mapping(config: Any, path: str = "") -> dict[str, Any]:
    """Return a configuration as nested dictionaries with `_target_`, as in a file of `sam2`."""
    out: dict[str, Any] = {"_target_": _TARGETS[path]} if path in _TARGETS else {}
    for field in dataclasses.fields(config):
        value, inner = getattr(config, field.name), f"{path}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            value = config_to_mapping(value, inner)
        elif path == "" and field.name in VIDEO_FIELDS:
            continue
        out[field.name] = list(value) if isinstance(value, tuple) else value
    if path in _PLACED:
        channels = out[_PLACED[path]]
        out["position_encoding"] = {"_target_": _POSITIONS, "num_pos_feats": channels}
    if path == "memory_encoder":
        out["mask_downsampler"]["embed_dim"] = out["in_dim"]
    return out


def config_from_mapping(model: Mapping[str, Any]) -> SAM2Config:
    """Return the configuration in nested dictionaries, such as `model` in a file of `sam2`.

    Raises:
        ConfigError: a class or field that this package does not have, or a missing group.
    """
    return _read(model, ABSENT, "")


def _read(node: Any, absent: Any, path: str) -> Any:
    place = f"model.{path}".rstrip(".")
    if not isinstance(node, Mapping):
        raise ConfigError(f"{place} must be a group of fields, not {node!r}")
    values = dict(node)
    target = values.pop("_target_", None)
    expected = _TARGETS.get(path)
    if target is not None and not _is(target, expected):
        raise ConfigError(
            f"{place}: class {target!r} is not supported here, only {expected!r}; replace the "
            "module after building, or build with Hydra's instantiate"
        )
    if path in _PLACED:
        positions = dict(values.pop("position_encoding", {}))
        positions.pop("_target_", None)
        usual = {"normalize": True, "scale": None, "temperature": 10000}
        usual["num_pos_feats"] = values.get(_PLACED[path], getattr(absent, _PLACED[path]))
        if any(usual.get(key) != value for key, value in positions.items()):
            raise ConfigError(f"{place}.position_encoding must be {usual}, not {positions}")
    if path == "memory_encoder.mask_downsampler":
        values.pop("embed_dim", None)
    known = {field.name for field in dataclasses.fields(absent)}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown field {place}.{name}; nearest is {near!r}")
        default = getattr(absent, name)
        if dataclasses.is_dataclass(default):
            values[name] = _read(value or {}, default, f"{path}.{name}".lstrip("."))
        elif isinstance(value, list):
            values[name] = tuple(value)
    return replace(absent, **values)


def _is(target: str, expected: str | None) -> bool:
    """True if a target is the class of this name here or in `sam2`."""
    if expected is None:
        return False
    name = target.rpartition(".")[2]
    if expected == _TARGETS[""] and name in _PREDICTORS:
        return True
    package, _, rest = target.partition(".")
    return package in ("sam2", "fastsam2") and rest == expected.partition(".")[2]


def read_config(path: Path) -> SAM2Config:
    """Read a configuration from a YAML file in the format of `sam2`.

    Raises:
        ConfigError: the file is no YAML, has no group `model`, or see `config_from_mapping`.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-6 as a number, as Hydra does."""

    number = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, Mapping) or "model" not in found:
        raise ConfigError(f"{path} has no group 'model'")
    return config_from_mapping(found["model"])


def write_config(config: SAM2Config, path: Path) -> None:
    """Write a configuration as a YAML file."""
    import yaml

    text = yaml.safe_dump(
        {"model": config_to_mapping(config)}, sort_keys=False, default_flow_style=None
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n\n{text}", encoding="utf-8")
