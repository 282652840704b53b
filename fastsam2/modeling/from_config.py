"""Modules of a model from its configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastsam2.config import VIDEO_FIELDS, MaskDecoderConfig, SAM2Config
from fastsam2.modeling.backbones.hieradet import Hiera
from fastsam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from fastsam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from fastsam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from fastsam2.modeling.position_encoding import PositionEmbeddingSine
from fastsam2.modeling.sam.transformer import RoPEAttention

__all__ = ["model_arguments", "video_arguments"]


def model_arguments(config: SAM2Config) -> dict[str, Any]:
    """Return the arguments of `SAM2Base`: new modules, and options."""
    options = {
        field.name: value
        for field in dataclasses.fields(config)
        if field.name not in VIDEO_FIELDS
        and not dataclasses.is_dataclass(value := getattr(config, field.name))
    }
    return {
        "image_encoder": _image_encoder(config),
        "memory_attention": _memory_attention(config),
        "memory_encoder": _memory_encoder(config),
        "sam_mask_decoder_extra_args": _extra_args(config.sam_mask_decoder_extra_args),
        **options,
    }


def video_arguments(config: SAM2Config) -> dict[str, Any]:
    """Return the further arguments of a video predictor."""
    return {name: getattr(config, name) for name in VIDEO_FIELDS}


def _extra_args(config: MaskDecoderConfig) -> dict[str, Any] | None:
    """Return the arguments that differ from the defaults, and all of stability; None if none do."""
    default = MaskDecoderConfig()
    if config == default:
        return None
    return {
        name: value
        for name, value in vars(config).items()
        if value != getattr(default, name)
        or (config.dynamic_multimask_via_stability and name.startswith("dynamic_multimask"))
    }


def _image_encoder(config: SAM2Config) -> ImageEncoder:
    trunk, neck = config.image_encoder.trunk, config.image_encoder.neck
    return ImageEncoder(
        trunk=Hiera(**vars(trunk)),
        neck=FpnNeck(PositionEmbeddingSine(neck.d_model), **vars(neck)),
        scalp=config.image_encoder.scalp,
    )


def _memory_attention(config: SAM2Config) -> MemoryAttention:
    layer = vars(config.memory_attention.layer) | {
        name: RoPEAttention(**vars(getattr(config.memory_attention.layer, name)))
        for name in ("self_attention", "cross_attention")
    }
    arguments = vars(config.memory_attention) | {"layer": MemoryAttentionLayer(**layer)}
    return MemoryAttention(**arguments)


def _memory_encoder(config: SAM2Config) -> MemoryEncoder:
    encoder = config.memory_encoder
    return MemoryEncoder(
        out_dim=encoder.out_dim,
        mask_downsampler=MaskDownSampler(encoder.in_dim, **vars(encoder.mask_downsampler)),
        fuser=Fuser(CXBlock(**vars(encoder.fuser.layer)), encoder.fuser.num_layers),
        position_encoding=PositionEmbeddingSine(encoder.out_dim),
        in_dim=encoder.in_dim,
    )
