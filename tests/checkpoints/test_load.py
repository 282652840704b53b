"""Read checkpoints in every format, refuse other files, and load weights into a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastsam2.checkpoints.load import infer_config, load_checkpoint, load_state_dict
from fastsam2.config import CONFIGS
from fastsam2.errors import CheckpointError
from tests.messages import one_line


class Small(nn.Module):
    """Tensors of several kinds: nested, scalar, two dtypes, one non-persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.token = nn.Parameter(torch.randn(1, 4), requires_grad=False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("table", torch.arange(4.0), persistent=False)


@pytest.fixture
def state_dict() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in Small().state_dict().items()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


class Code:
    """Object whose unpickling runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1 + 1",))


@pytest.mark.parametrize("kind", ["official", "bare", "legacy", "safetensors", "renamed"])
def test_load_state_dict_formats(kind: str, tmp_path: Path, state_dict: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.pt"
    if kind == "official":
        torch.save({"model": state_dict, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    elif kind == "bare":
        torch.save(state_dict, path)
    elif kind == "legacy":
        torch.save({"model": state_dict}, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state_dict, path)
    else:  # safetensors without suffix, as in a cache that names files by their hash
        path = tmp_path / "0f3a"
        save_file(state_dict, path)
    assert_same(load_state_dict(path), state_dict)
    assert_same(load_state_dict(str(path)), state_dict)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_wrappers_are_removed(
    key: str | None, prefix: str, tmp_path: Path, state_dict: dict[str, Tensor]
) -> None:
    wrapped = {prefix + name: tensor for name, tensor in state_dict.items()}
    torch.save(wrapped if key is None else {key: wrapped, "epoch": 3}, tmp_path / "weights.pt")
    assert_same(load_state_dict(tmp_path / "weights.pt"), state_dict)


def bad_files() -> dict[str, tuple[bytes, str]]:
    whole = Path(__file__).read_bytes()
    return {
        "empty.pt": (b"", "empty"),
        "page.pt": (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        "page.safetensors": (b"<html></html>", "web page"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        "text.pt": (whole, "not a checkpoint"),
        "words.pt": (b"hello world this is no checkpoint", "not a checkpoint"),
        "noise.safetensors": (bytes(range(100)), "damaged"),
        "zip.pt": (b"PK\x03\x04" + bytes(200), "damaged"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_bad_file_is_one_line(name: str, tmp_path: Path) -> None:
    content, message = bad_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state_dict(path)
    assert one_line(caught).startswith(str(path))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_truncated_file(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    weights = {"a": torch.randn(64, 64), "b": torch.randn(64)}
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(path)
    one_line(caught)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("content", "name"), [(Code(), "eval"), (Small(), "Small")])
def test_pickled_code_is_not_run(content: Any, name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": content}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"{name}\), which could run code") as caught:
        load_state_dict(path)
    one_line(caught)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "list"),
        ({}, "state dict"),
        ({"model": 3}, "int"),
        ({"weight": torch.ones(1), "epoch": 3}, "epoch"),
        (torch.ones(2), "Tensor"),
    ],
)
def test_pickle_of_something_else(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state_dict(path)
    one_line(caught)


def test_missing_file_and_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_state_dict(tmp_path / "none.pt")
    (tmp_path / "sub" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state_dict(tmp_path / "sub")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_state_dict(tmp_path)


def signature(name: str) -> dict[str, Tensor]:
    """Minimal state dict that identifies a model."""
    config = CONFIGS[name]
    trunk = config.image_encoder.trunk
    tensors = {
        "image_encoder.trunk.patch_embed.proj.weight": torch.empty(trunk.embed_dim, 3, 7, 7),
        "memory_encoder.out_proj.bias": torch.empty(64),
    }
    for i in range(sum(trunk.stages)):
        tensors[f"image_encoder.trunk.blocks.{i}.norm1.weight"] = torch.empty(1)
        tensors[f"image_encoder.trunk.blocks.{i}.norm1.bias"] = torch.empty(1)
    if config.no_obj_embed_spatial:
        tensors["no_obj_embed_spatial"] = torch.empty(1, 64)
    if config.proj_tpos_enc_in_obj_ptrs:
        tensors["obj_ptr_tpos_proj.weight"] = torch.empty(64, 256)
    return tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_infer_config(name: str) -> None:
    assert infer_config(signature(name)) == name


def test_infer_config_reports_the_sizes_found() -> None:
    deeper = signature("sam2.1-tiny") | {
        "image_encoder.trunk.blocks.12.norm1.weight": torch.ones(1)
    }
    with pytest.raises(CheckpointError, match=r"96 wide and 13 blocks deep, with no_obj"):
        infer_config(deeper)
    between = signature("sam2.1-tiny")
    del between["no_obj_embed_spatial"]
    with pytest.raises(CheckpointError, match="without no_obj_embed_spatial and with obj_ptr"):
        infer_config(between)
    with pytest.raises(CheckpointError, match=r"its tensors: a, b, c, d and 1 more"):
        infer_config(dict.fromkeys("abcde", torch.ones(1)))
    with pytest.raises(CheckpointError, match="empty"):
        infer_config({})
    image = {k: v for k, v in signature("sam2.1-tiny").items() if not k.startswith("memory")}
    with pytest.raises(CheckpointError, match="image model"):
        infer_config(image)


def test_load_checkpoint_fills_a_meta_model(tmp_path: Path, state_dict: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": state_dict}, path)
    with torch.device("meta"):
        model = Small()
    model.table = torch.arange(4.0)
    load_checkpoint(model, path)
    assert_same(model.state_dict(), state_dict)
    assert isinstance(model.inner.weight, nn.Parameter)
    assert model.inner.weight.requires_grad
    assert not model.token.requires_grad
    assert torch.equal(model.table, torch.arange(4.0))

    path.write_bytes(bytes(path.stat().st_size))  # the weights must not be views of the file
    assert_same(model.state_dict(), state_dict)


def test_load_checkpoint_keeps_the_models_dtypes(state_dict: dict[str, Tensor]) -> None:
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in state_dict.items()}
    with torch.device("meta"):
        empty = Small()
    full = Small()
    for model in (empty, full):
        load_checkpoint(model, half)
        expected = {k: v.to(state_dict[k].dtype) for k, v in half.items()}
        assert_same(model.state_dict(), expected)


def test_load_checkpoint_overwrites_weights_in_place(state_dict: dict[str, Tensor]) -> None:
    model = Small()
    weight = model.inner.weight
    load_checkpoint(model, state_dict)
    assert model.inner.weight is weight
    assert_same(model.state_dict(), state_dict)
    with pytest.raises(ValueError, match="meta device"):
        load_checkpoint(model, state_dict, device="cpu")


def test_load_checkpoint_onto_a_device(state_dict: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = Small()
    load_checkpoint(model, state_dict, device="cpu")
    assert model.inner.weight.device.type == "cpu"


def test_load_checkpoint_lists_every_fault_at_once(state_dict: dict[str, Tensor]) -> None:
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del state_dict["inner.bias"]
    state_dict["token"] = torch.zeros(1, 5)
    state_dict |= {f"extra.{i}": torch.zeros(i, 2) for i in range(6)}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, state_dict)
    message = one_line(caught)
    assert "1 missing: inner.bias (2)" in message
    assert "6 unexpected: extra.0 (0x2)" in message
    assert "and 2 more" in message
    assert "1 of another shape: token (1x5, the model has 1x4)" in message
    assert_same(model.state_dict(), before)


def test_load_checkpoint_names_the_model_the_weights_belong_to() -> None:
    with pytest.raises(CheckpointError, match="look like sam2-large"):
        load_checkpoint(Small(), signature("sam2-large"))


def test_shard_index_without_map(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}}))
    with pytest.raises(CheckpointError, match="not an index"):
        load_state_dict(tmp_path)
