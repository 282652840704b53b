"""Configurations of SAM 2 as frozen dataclasses, and the names of the models.

Field names and nesting match the official YAML files, so that an override such as
`++model.image_encoder.trunk.embed_dim=96` addresses the same value. Values are from
`sam2/configs/sam2*/*.yaml` of sam2 1.1.0.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fastsam2.errors import ConfigError

__all__ = [
    "CONFIGS",
    "ConvNeXtConfig",
    "FuserConfig",
    "HF_MODEL_IDS",
    "HieraConfig",
    "ImageEncoderConfig",
    "MaskDecoderConfig",
    "MaskDownSamplerConfig",
    "MemoryAttentionConfig",
    "MemoryAttentionLayerConfig",
    "MemoryEncoderConfig",
    "NeckConfig",
    "RoPEAttentionConfig",
    "SAM2Config",
    "VIDEO_FIELDS",
    "apply_overrides",
    "checkpoint_name",
    "find_config",
    "yaml_name",
]


@dataclass(frozen=True)
class HieraConfig:
    """Image backbone (arXiv 2306.00989) with SAM 2's windowed position embedding."""

    embed_dim: int = 96
    num_heads: int = 1
    q_pool: int = 3
    q_stride: tuple[int, int] = (2, 2)
    stages: tuple[int, ...] = (1, 2, 7, 2)
    dim_mul: float = 2.0
    head_mul: float = 2.0
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    global_att_blocks: tuple[int, ...] = (5, 7, 9)


@dataclass(frozen=True)
class NeckConfig:
    """Feature pyramid on top of the backbone."""

    d_model: int = 256
    backbone_channel_list: tuple[int, ...] = (768, 384, 192, 96)
    fpn_top_down_levels: tuple[int, ...] = (2, 3)
    fpn_interp_model: str = "nearest"


@dataclass(frozen=True)
class ImageEncoderConfig:
    trunk: HieraConfig = HieraConfig()
    neck: NeckConfig = NeckConfig()
    scalp: int = 1


@dataclass(frozen=True)
class RoPEAttentionConfig:
    """Attention with rotary position encoding.

    `feat_sizes` is the size of the rotary table built in advance; others are built on first use.
    """

    embedding_dim: int = 256
    num_heads: int = 1
    downsample_rate: int = 1
    dropout: float = 0.1
    kv_in_dim: int | None = None
    rope_theta: float = 10000.0
    rope_k_repeat: bool = False
    feat_sizes: tuple[int, int] = (64, 64)


@dataclass(frozen=True)
class MemoryAttentionLayerConfig:
    activation: str = "relu"
    d_model: int = 256
    dim_feedforward: int = 2048
    dropout: float = 0.1
    pos_enc_at_attn: bool = False
    pos_enc_at_cross_attn_keys: bool = True
    pos_enc_at_cross_attn_queries: bool = False
    self_attention: RoPEAttentionConfig = RoPEAttentionConfig()
    cross_attention: RoPEAttentionConfig = RoPEAttentionConfig(kv_in_dim=64, rope_k_repeat=True)


@dataclass(frozen=True)
class MemoryAttentionConfig:
    d_model: int = 256
    pos_enc_at_input: bool = True
    layer: MemoryAttentionLayerConfig = MemoryAttentionLayerConfig()
    num_layers: int = 4


@dataclass(frozen=True)
class MaskDownSamplerConfig:
    kernel_size: int = 3
    stride: int = 2
    padding: int = 1
    total_stride: int = 16


@dataclass(frozen=True)
class ConvNeXtConfig:
    """One CXBlock of the fuser."""

    dim: int = 256
    kernel_size: int = 7
    padding: int = 3
    layer_scale_init_value: float = 1e-6
    use_dwconv: bool = True


@dataclass(frozen=True)
class FuserConfig:
    layer: ConvNeXtConfig = ConvNeXtConfig()
    num_layers: int = 2


@dataclass(frozen=True)
class MemoryEncoderConfig:
    in_dim: int = 256
    out_dim: int = 64
    mask_downsampler: MaskDownSamplerConfig = MaskDownSamplerConfig()
    fuser: FuserConfig = FuserConfig()


@dataclass(frozen=True)
class MaskDecoderConfig:
    """Two-way mask decoder. `dynamic_multimask_*`: replace an unstable single mask by the best of
    three."""

    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    dynamic_multimask_via_stability: bool = False
    dynamic_multimask_stability_delta: float = 0.05
    dynamic_multimask_stability_thresh: float = 0.98


#: Side in pixels of the largest input; one beyond it fits no memory.
_LARGEST_IMAGE = 16_384


@dataclass(frozen=True)
class SAM2Config:
    """Complete model. Defaults are SAM 2.1 tiny."""

    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    memory_attention: MemoryAttentionConfig = MemoryAttentionConfig()
    memory_encoder: MemoryEncoderConfig = MemoryEncoderConfig()
    sam_mask_decoder_extra_args: MaskDecoderConfig = MaskDecoderConfig()
    num_maskmem: int = 7
    image_size: int = 1024
    backbone_stride: int = 16
    # memory encoder
    sigmoid_scale_for_mem_enc: float = 20.0
    sigmoid_bias_for_mem_enc: float = -10.0
    binarize_mask_from_pts_for_mem_enc: bool = False
    non_overlap_masks_for_mem_enc: bool = False
    no_obj_embed_spatial: bool = True
    # memory selection
    max_cond_frames_in_attn: int = -1
    memory_temporal_stride_for_eval: int = 1
    directly_add_no_mem_embed: bool = True
    # object pointers
    use_obj_ptrs_in_encoder: bool = True
    max_obj_ptrs_in_encoder: int = 16
    add_tpos_enc_to_obj_ptrs: bool = True
    proj_tpos_enc_in_obj_ptrs: bool = True
    use_signed_tpos_enc_to_obj_ptrs: bool = True
    only_obj_ptrs_in_the_past_for_eval: bool = True
    use_mlp_for_obj_ptr_proj: bool = True
    use_multimask_token_for_obj_ptr: bool = True
    # mask decoder
    use_mask_input_as_output_without_sam: bool = True
    use_high_res_features_in_sam: bool = True
    iou_prediction_use_sigmoid: bool = True
    multimask_output_in_sam: bool = True
    multimask_output_for_tracking: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    # object presence
    pred_obj_scores: bool = True
    pred_obj_scores_mlp: bool = True
    fixed_no_obj_ptr: bool = True
    soft_no_obj_ptr: bool = False
    compile_image_encoder: bool = False
    # video predictor
    fill_hole_area: int = 0
    non_overlap_masks: bool = False
    clear_non_cond_mem_around_input: bool = False
    add_all_frames_to_correct_as_cond: bool = False

    def __post_init__(self) -> None:
        if self.image_size % 64 or not 0 < self.image_size <= _LARGEST_IMAGE:
            raise ConfigError(
                f"image_size must be a positive multiple of 64, up to {_LARGEST_IMAGE}, "
                f"not {self.image_size}"
            )
        cond = self.max_cond_frames_in_attn
        if cond != -1 and cond < 2:
            raise ConfigError(f"max_cond_frames_in_attn must be -1 or at least 2, not {cond}")


#: Fields of `SAM2Config` that a video predictor has, and an image model does not.
VIDEO_FIELDS = (
    "fill_hole_area",
    "non_overlap_masks",
    "clear_non_cond_mem_around_input",
    "add_all_frames_to_correct_as_cond",
)


def _encoder(
    channels: tuple[int, ...],
    heads: int,
    stages: tuple[int, ...],
    global_att_blocks: tuple[int, ...],
    background: int,
    windows: tuple[int, ...] = (8, 4, 14, 7),
) -> ImageEncoderConfig:
    trunk = HieraConfig(
        embed_dim=channels[-1],
        num_heads=heads,
        stages=stages,
        global_att_blocks=global_att_blocks,
        window_pos_embed_bkg_spatial_size=(background, background),
        window_spec=windows,
    )
    return ImageEncoderConfig(trunk=trunk, neck=NeckConfig(backbone_channel_list=channels))


_SIZES = {
    "tiny": _encoder((768, 384, 192, 96), 1, (1, 2, 7, 2), (5, 7, 9), 7),
    "small": _encoder((768, 384, 192, 96), 1, (1, 2, 11, 2), (7, 10, 13), 7),
    "base_plus": _encoder((896, 448, 224, 112), 2, (2, 3, 16, 3), (12, 16, 20), 14),
    "large": _encoder(
        (1152, 576, 288, 144), 2, (2, 6, 36, 4), (23, 33, 43), 7, windows=(8, 4, 16, 8)
    ),
}
_SAM2_1 = SAM2Config()
_SAM2_0 = replace(
    _SAM2_1,
    no_obj_embed_spatial=False,
    add_tpos_enc_to_obj_ptrs=False,
    proj_tpos_enc_in_obj_ptrs=False,
    use_signed_tpos_enc_to_obj_ptrs=False,
)

_OFFICIAL = {
    f"{family}-{size}": replace(base, image_encoder=encoder)
    for family, base in (("sam2", _SAM2_0), ("sam2.1", _SAM2_1))
    for size, encoder in _SIZES.items()
}

#: Hugging Face repository of each official model.
HF_MODEL_IDS: dict[str, str] = {
    f"facebook/{name.replace('-', '-hiera-').replace('_', '-')}": name for name in _OFFICIAL
}


def _nano(dim: int = 128) -> SAM2Config:
    """SAM 2.1 with 5 million parameters, for images of 256 x 256 pixels."""
    trunk = HieraConfig(
        embed_dim=48,
        stages=(1, 2, 3, 1),
        # At 256 pixels a window of 16 covers the whole third stage.
        window_spec=(8, 4, 16, 8),
        global_att_blocks=(),
    )
    neck = NeckConfig(d_model=dim, backbone_channel_list=(384, 192, 96, 48))
    attention = RoPEAttentionConfig(embedding_dim=dim, dropout=0.0, feat_sizes=(16, 16))
    layer = MemoryAttentionLayerConfig(
        d_model=dim,
        dim_feedforward=512,
        dropout=0.0,
        self_attention=attention,
        cross_attention=replace(attention, kv_in_dim=64, rope_k_repeat=True),
    )
    fuser = FuserConfig(ConvNeXtConfig(dim=dim, layer_scale_init_value=0.1))
    return replace(
        _SAM2_1,
        image_encoder=ImageEncoderConfig(trunk, neck),
        memory_attention=MemoryAttentionConfig(dim, layer=layer, num_layers=2),
        memory_encoder=MemoryEncoderConfig(in_dim=dim, fuser=fuser),
        sam_mask_decoder_extra_args=MaskDecoderConfig(mlp_dim=512),
        image_size=256,
    )


#: Every model by its short name: `sam2-tiny` to `sam2.1-large`, and the bundled `nano`.
CONFIGS: dict[str, SAM2Config] = {**_OFFICIAL, "nano": _nano()}

_LETTERS = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}


def checkpoint_name(name: str) -> str:
    """File name of the official checkpoint of the model with this short name."""
    return f"{name.replace('-', '_hiera_')}.pt"


def yaml_name(name: str) -> str:
    """Official YAML name of the model with this short name."""
    family, size = name.split("-")
    letter = next(letter for letter, word in _LETTERS.items() if word == size)
    return f"configs/{family}/{family}_hiera_{letter}.yaml"


def find_config(name: str) -> str | None:
    """Return the short name of the model called `name`, or None.

    Accepts short names, Hugging Face ids, and official YAML names with or without folders and
    suffix (`configs/sam2.1/sam2.1_hiera_t.yaml`, `sam2_hiera_t`).
    """
    if name in CONFIGS:
        return name
    if name in HF_MODEL_IDS:
        return HF_MODEL_IDS[name]
    match = re.fullmatch(r"(?:.*/)?(sam2(?:\.1)?)_hiera_(t|s|b\+|l)(?:\.ya?ml)?", name)
    if match:
        return f"{match[1]}-{_LETTERS[match[2]]}"
    return None


def apply_overrides(config: SAM2Config, overrides: Iterable[str]) -> SAM2Config:
    """Return `config` with Hydra-style overrides such as `++model.image_size=512`.

    Overrides are applied in order. `+`, `++` and no prefix mean the same; a leading `model.` may be
    left out. `_target_` is accepted and ignored: the builder chooses the class.

    Raises:
        ConfigError: an override without `=`, a field that does not exist (the message names the
            nearest one), or a value of the wrong type.
    """
    for override in overrides:
        path, equals, text = override.lstrip("+").partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} has no '='; expected ++model.FIELD=VALUE")
        keys = path.strip().removeprefix("model.").split(".")
        if keys[-1] == "_target_":
            continue
        config = _replace_at(config, keys, text.strip(), override)
    return config


def _replace_at(node: Any, keys: list[str], text: str, override: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(node)}
    key, *rest = keys
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
        raise ConfigError(f"unknown field {key!r} in override {override!r}; nearest is {near[0]!r}")
    current = getattr(node, key)
    if dataclasses.is_dataclass(current) != bool(rest):
        what = "is a group of fields" if not rest else "has no fields below it"
        raise ConfigError(f"override {override!r}: {key!r} {what}")
    value = _replace_at(current, rest, text, override) if rest else _parse(text, current, override)
    return replace(node, **{key: value})


def _parse(text: str, current: Any, override: str) -> Any:
    """Parse `text` as a value of the type of the field's `current` value."""
    words = {"true": "True", "false": "False", "null": "None", "none": "None"}
    value: Any = text
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(words.get(text.lower(), text))
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if current is not None and type(value) is not type(current):
        raise ConfigError(
            f"override {override!r}: expected {type(current).__name__}, got {value!r}"
        )
    return value
