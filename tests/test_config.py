"""Configurations equal the official YAML files and take the same overrides."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from tests import reference  # isort: skip  # before fastsam2

from fastsam2.config import (
    CONFIGS,
    HF_MODEL_IDS,
    SAM2Config,
    apply_overrides,
    checkpoint_name,
    find_config,
)
from fastsam2.errors import ConfigError

from hydra import compose  # isort: skip
from hydra.utils import get_class  # isort: skip
from omegaconf import OmegaConf  # isort: skip
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES  # isort: skip
from sam2.modeling.sam.mask_decoder import MaskDecoder  # isort: skip
from sam2.sam2_video_predictor import SAM2VideoPredictor  # isort: skip

# Constants in the body of an official constructor, not configuration.
FIXED = {"depth": 2, "num_heads": 8, "mlp_dim": 2048}
# Only in the YAML files: the encodings follow from the widths in the same section.
DERIVED = {"_target_", "position_encoding"}


def parameters(cls: type) -> dict[str, Any]:
    """Return the default of every constructor argument of `cls` and its base classes."""
    defaults: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            defaults[name] = parameter.default
    return defaults


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            values |= flatten(value, f"{prefix}{field.name}.")
        else:
            values[prefix + field.name] = value
    return values


def flatten_official(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every argument used to build `node`, from the YAML or by default."""
    values: dict[str, Any] = {}
    for name, value in {**parameters(get_class(node["_target_"])), **node}.items():
        if name in DERIVED:
            continue
        if isinstance(value, dict):
            values |= flatten_official(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = tuple(value) if isinstance(value, list) else value
    return values


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_equals_official_yaml(name: str) -> None:
    overrides = ["++model._target_=sam2.sam2_video_predictor.SAM2VideoPredictor"]
    composed = compose(config_name=reference.CONFIGS[name], overrides=overrides)
    yaml = OmegaConf.to_container(composed.model, resolve=True)
    assert get_class(yaml["_target_"]) is SAM2VideoPredictor
    official = flatten_official(yaml)
    decoder = parameters(MaskDecoder) | FIXED
    for key, value in flatten(CONFIGS[name]).items():
        group, _, field = key.rpartition(".")
        expected = decoder[field] if group == "sam_mask_decoder_extra_args" else official[key]
        assert value == expected, key


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_every_yaml_value_is_a_field(name: str) -> None:
    yaml = OmegaConf.to_container(compose(config_name=reference.CONFIGS[name]).model)

    def leaves(node: dict[str, Any], prefix: str = "") -> set[str]:
        names: set[str] = set()
        for key, value in node.items():
            if key not in DERIVED:
                deeper = isinstance(value, dict)
                names |= leaves(value, f"{prefix}{key}.") if deeper else {prefix + key}
        return names

    assert leaves(yaml) <= flatten(CONFIGS[name]).keys()


def test_names_of_the_official_hub_repositories() -> None:
    assert HF_MODEL_IDS.keys() == HF_MODEL_ID_TO_FILENAMES.keys()
    for model_id, (yaml, checkpoint) in HF_MODEL_ID_TO_FILENAMES.items():
        name = find_config(model_id)
        assert name is not None
        assert find_config(yaml) == name
        assert checkpoint_name(name) == checkpoint


@pytest.mark.parametrize(
    "spelling",
    [
        "sam2.1-base_plus",
        "facebook/sam2.1-hiera-base-plus",
        "configs/sam2.1/sam2.1_hiera_b+.yaml",
        "configs/sam2.1/sam2.1_hiera_b+",
        "./configs/sam2.1/sam2.1_hiera_b+.yaml",
        "/configs/sam2.1/sam2.1_hiera_b+.yaml",
        "../sam2/configs/sam2.1/sam2.1_hiera_b+.yaml",
        "sam2.1_hiera_b+.yaml",
        "sam2.1_hiera_b+",
    ],
)
def test_find_config(spelling: str) -> None:
    assert find_config(spelling) == "sam2.1-base_plus"


@pytest.mark.parametrize("name", ["", "sam3", "sam2.1_hiera_x.yaml", "sam2_hiera_tiny.pt"])
def test_find_config_of_unknown_names(name: str) -> None:
    assert find_config(name) is None


def test_overrides_apply_in_order_and_leave_the_original() -> None:
    config = CONFIGS["sam2.1-tiny"]
    changed = apply_overrides(
        config,
        [
            "++model.image_size=512",
            "model.num_maskmem=3",
            "+image_size=256",
            "++model.image_encoder.trunk.stages=[1,2,3,4]",
            "++model.memory_attention.layer.dropout=0",
            "++model.non_overlap_masks=true",
            "++model.image_encoder.neck.fpn_interp_model=bilinear",
            "++model.memory_attention.layer.self_attention.kv_in_dim=64",
            "++model._target_=some.other.Class",
        ],
    )
    assert changed.image_size == 256
    assert changed.num_maskmem == 3
    assert changed.image_encoder.trunk.stages == (1, 2, 3, 4)
    assert changed.memory_attention.layer.dropout == 0.0
    assert changed.non_overlap_masks is True
    assert changed.image_encoder.neck.fpn_interp_model == "bilinear"
    assert changed.memory_attention.layer.self_attention.kv_in_dim == 64
    assert config == SAM2Config()
    assert apply_overrides(config, []) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("++model.image_size", "no '='"),
        ("++model.imagesize=512", "nearest is 'image_size'"),
        ("++model.image_encoder.trunk.depth=3", "unknown field 'depth'"),
        ("++model.image_encoder=3", "group of fields"),
        ("++model.image_size.width=3", "no fields below"),
        ("++model.image_size=large", "expected int, got 'large'"),
        ("++model.image_size=512.5", "expected int"),
        ("++model.pred_obj_scores=1", "expected bool"),
        ("++model.image_size=500", "multiple of 64"),
        ("++model.image_size=0", "positive"),
        ("++model.image_size=65536", "up to 16384, not 65536"),
        ("++model.max_cond_frames_in_attn=1", "at least 2"),
    ],
)
def test_bad_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        apply_overrides(CONFIGS["sam2-large"], [override])
    assert "\n" not in str(caught.value)


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["sam2-tiny"].image_size = 512  # type: ignore[misc]
