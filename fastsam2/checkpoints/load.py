"""Read checkpoints, tell which model they belong to, and load them into one.

Formats: official `.pt` files (`{"model": state_dict}`), `{"state_dict": ...}`, bare state dicts,
`.safetensors` with official names, and folders written by `save_pretrained` of transformers' SAM 2
classes. A checkpoint is data: code pickled into one is never run.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastsam2.checkpoints.transformers_format import convert_hf_state_dict, is_hf_state_dict
from fastsam2.config import CONFIGS
from fastsam2.errors import CheckpointError, first_line

__all__ = ["infer_config", "load_checkpoint", "load_state_dict"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_WRAPPERS = ("module.", "_orig_mod.")


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint onto the CPU, under their official names.

    Args:
        path: a file, or a folder written by `save_pretrained` of transformers' `Sam2VideoModel` or
            `Sam2Model`. The format of a file is detected from its first bytes, not its suffix.

    Returns:
        Tensors by name, memory-mapped if the format allows it: copy those that must outlive the
        file, as `load_checkpoint` does.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or holds more than data.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        state_dict = _read_folder(path)
    elif path.exists():
        state_dict = _read_file(path)
    else:
        raise CheckpointError(f"{path}: no such file")
    state_dict = _without_wrapper(state_dict)
    return convert_hf_state_dict(state_dict) if is_hf_state_dict(state_dict) else state_dict


def _without_wrapper(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that DataParallel and `torch.compile` put before every name."""
    for prefix in _WRAPPERS:
        if state_dict and all(name.startswith(prefix) for name in state_dict):
            return _without_wrapper({k.removeprefix(prefix): v for k, v in state_dict.items()})
    return state_dict


def _read_folder(folder: Path) -> dict[str, Tensor]:
    if (folder / _WEIGHTS).exists():
        return _read_file(folder / _WEIGHTS)
    index = folder / _INDEX
    if not index.exists():
        raise CheckpointError(f"{folder}: the folder holds neither {_WEIGHTS} nor {_INDEX}")
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: not an index of shards") from None
    missing = sorted(shard for shard in shards if not (folder / shard).exists())
    if missing:
        raise CheckpointError(f"{folder}: {_few(missing)} of {len(shards)} shards missing")
    return {k: v for shard in sorted(shards) for k, v in _read_file(folder / shard).items()}


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise CheckpointError(f"{path}: the file is empty")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path}: a web page, not a checkpoint; download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; run git lfs pull")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: damaged or truncated ({first_line(error)})") from None
    return _read_pickle(path, head)


def _read_pickle(path: Path, head: bytes) -> dict[str, Tensor]:
    zipped = head.startswith(b"PK")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise CheckpointError(
                f"{path}: holds more than tensors ({found[1]}), which could run code; not loaded"
            ) from None
        raise CheckpointError(f"{path}: not a checkpoint, or damaged") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        if not zipped and not head.startswith(pickle.PROTO):
            raise CheckpointError(f"{path}: not a checkpoint of PyTorch or safetensors") from None
        raise CheckpointError(f"{path}: damaged or truncated ({first_line(error)})") from None
    state_dict = content
    if isinstance(content, Mapping):
        state_dict = content.get("model", content.get("state_dict", content))
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise CheckpointError(f"{path}: holds {type(state_dict).__name__}, not a state dict")
    other = [name for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(f"{path}: not a state dict, {_few(other)} are no tensors")
    return dict(state_dict)


def infer_config(state_dict: Mapping[str, Tensor]) -> str:
    """Return the short name of the model that these tensors (official names) belong to.

    The size follows from the trunk's width and depth; the family from two parts that SAM 2.1 added:
    `no_obj_embed_spatial` and `obj_ptr_tpos_proj`.

    Raises:
        CheckpointError: no known model matches; the message holds the sizes found.
    """
    if not state_dict:
        raise CheckpointError("the state dict is empty")
    patch_embed = state_dict.get("image_encoder.trunk.patch_embed.proj.weight")
    if patch_embed is None:
        names = _few(sorted(state_dict))
        raise CheckpointError(f"not the weights of a SAM 2 model; its tensors: {names}")
    if not any(name.startswith("memory_encoder.") for name in state_dict):
        raise CheckpointError(
            "weights of an image model (no memory encoder) fit both SAM 2 and 2.1; "
            "name the configuration"
        )
    blocks = {
        m[1]
        for name in state_dict
        if (m := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name))
    }
    found = (
        patch_embed.shape[0],
        len(blocks),
        "no_obj_embed_spatial" in state_dict,
        "obj_ptr_tpos_proj.weight" in state_dict,
    )
    for name, config in CONFIGS.items():
        trunk = config.image_encoder.trunk
        if found == (
            trunk.embed_dim,
            sum(trunk.stages),
            config.no_obj_embed_spatial,
            config.proj_tpos_enc_in_obj_ptrs,
        ):
            return name
    has = {True: "with", False: "without"}
    raise CheckpointError(
        f"no known model has a trunk {found[0]} wide and {found[1]} blocks deep, "
        f"{has[found[2]]} no_obj_embed_spatial and {has[found[3]]} obj_ptr_tpos_proj; "
        "name the configuration"
    )


def load_checkpoint(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    device: torch.device | str | None = None,
    name: str = "state dict",
) -> None:
    """Load weights into `model`; if they do not fit, the model is unchanged.

    A model on the meta device receives its tensors one at a time, in its own dtypes, directly on
    `device`, so that the weights are never held twice. Non-persistent buffers are left as they are.
    The weights of any other model are overwritten in place.

    Args:
        model: a module with the official parameter names.
        source: a path as for `load_state_dict`, or a state dict.
        device: target of a model on the meta device, by default the CPU; None for other models.
        name: name of a state dict in error messages.

    Raises:
        CheckpointError: as `load_state_dict`; or tensors are missing, unexpected or have another
            shape. One message lists them all.
        ValueError: `device` was given for a model that is not on the meta device.
    """
    if isinstance(source, Mapping):
        state_dict, origin = source, name
    else:
        state_dict, origin = load_state_dict(source), str(source)
    own = model.state_dict()
    _check_fit(own, state_dict, origin)
    empty = any(tensor.is_meta for tensor in own.values())
    if not empty:
        if device is not None:
            raise ValueError(f"device={device!r} is for models on the meta device")
        model.load_state_dict(dict(state_dict))
        return
    # Copies: views of the mapped file would change, or crash, if the file does.
    copies = {
        name: tensor.to(device or "cpu", own[name].dtype, copy=True)
        for name, tensor in state_dict.items()
    }
    model.load_state_dict(copies, assign=True)


def _check_fit(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], origin: str) -> None:
    """Raise CheckpointError unless both have the same names and shapes."""

    def shape(tensor: Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "scalar"

    kinds = {
        "missing": [f"{k} ({shape(v)})" for k, v in own.items() if k not in state_dict],
        "unexpected": [f"{k} ({shape(v)})" for k, v in state_dict.items() if k not in own],
        "of another shape": [
            f"{k} ({shape(state_dict[k])}, the model has {shape(v)})"
            for k, v in own.items()
            if k in state_dict and state_dict[k].shape != v.shape
        ],
    }
    faults = [f"{len(names)} {kind}: {_few(names)}" for kind, names in kinds.items() if names]
    if faults:
        try:
            owner = f" (they look like {infer_config(state_dict)})"
        except CheckpointError:
            owner = ""
        raise CheckpointError(f"{origin}: weights do not fit the model{owner}; {'; '.join(faults)}")


def _few(names: Iterable[Any], limit: int = 4) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
