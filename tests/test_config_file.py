"""Configurations as YAML files: those of `sam2`, the packaged ones, and a client's."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import torch

from tests import reference  # noqa: F401  (imports sam2 first)

import sam2  # isort: skip

import fastsam2
from fastsam2.build_sam import build_sam2, build_sam2_video_predictor
from fastsam2.config import CONFIGS, HF_MODEL_IDS, SAM2Config, yaml_name
from fastsam2.config_file import (
    _TARGETS,
    ABSENT,
    config_from_mapping,
    config_to_mapping,
    read_config,
    write_config,
)
from fastsam2.errors import ConfigError
from tests.support import SHALLOW

NAMES = sorted(HF_MODEL_IDS.values())


@pytest.mark.parametrize("package", [fastsam2, sam2], ids=["fastsam2", "sam2"])
@pytest.mark.parametrize("name", NAMES)
def test_official_files(package: object, name: str) -> None:
    """The packaged files and those of `sam2` hold the same values."""
    path = Path(inspect.getfile(package)).parent / yaml_name(name)  # type: ignore[arg-type]
    assert read_config(path) == CONFIGS[name]


@pytest.mark.parametrize("path", sorted(_TARGETS))
def test_absent_fields_have_the_defaults_of_the_official_classes(path: str) -> None:
    module, _, name = _TARGETS[path].replace("fastsam2", "sam2", 1).rpartition(".")
    official = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    group = ABSENT
    for key in path.split(".") if path else ():
        group = getattr(group, key)
    for key, value in vars(group).items():
        if key not in official or official[key].default in (inspect.Parameter.empty, None):
            continue
        assert value == official[key].default, key


def test_every_group_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    write_config(CONFIGS["nano"], path)
    assert read_config(path) == CONFIGS["nano"]
    assert config_from_mapping({}) == ABSENT


@pytest.mark.parametrize("prefix", ["", "/"])
def test_builders_read_files(tmp_path: Path, prefix: str) -> None:
    """Absolute paths have one slash, or two as for Hydra."""
    path = tmp_path / "mine.yaml"
    write_config(CONFIGS["nano"], path)
    model = build_sam2_video_predictor(
        prefix + str(path), device="cpu", hydra_overrides_extra=["++model.image_size=128"]
    )
    expected = build_sam2("nano", device="cpu").state_dict()
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }
    assert model.image_size == 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "is no YAML"),
        ("image_size: 3", "has no group 'model'"),
        ("model: {image_sise: 512}", "unknown field model.image_sise; nearest is 'image_size'"),
        (
            "model: {image_encoder: {trunk: {_target_: os.system}}}",
            "trunk: .*os",
        ),
        ("model: {memory_encoder: {position_encoding: {scale: 1}}}", "must be .*'scale': 1"),
        ("model: {memory_attention: 3}", "must be a group of fields, not 3"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        build_sam2(path, device="cpu")


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"no file and no known model 'mine\.yaml'"):
        build_sam2("mine.yaml", device="cpu")


def test_constructors_take_what_files_say() -> None:
    """Every field is an argument of the class that its group names."""
    mapping = config_to_mapping(SAM2Config())

    def check(node: dict[str, object]) -> None:
        arguments = {k: v for k, v in node.items() if k != "_target_"}
        if "_target_" in node:
            module, _, name = str(node["_target_"]).rpartition(".")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**arguments)
        for value in arguments.values():
            if isinstance(value, dict):
                check(value)

    check(mapping)


def test_shallow_overrides_of_a_file() -> None:
    with torch.device("meta"):
        model = build_sam2(
            str(Path(fastsam2.__file__).parent / yaml_name("sam2.1-tiny")),
            device="cpu",
            hydra_overrides_extra=list(SHALLOW),
        )
    assert len(model.image_encoder.trunk.blocks) == 5  # type: ignore[arg-type]
