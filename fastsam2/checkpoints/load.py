"""Weights: finding them, reading them in every format they come in, and fitting them to a model.

Read are the official `.pt` files (`{"model": state_dict}`), bare state dicts, `.safetensors` with
official names, and what transformers' `save_pretrained` writes for SAM 2. A checkpoint is data:
code pickled into one is never run.
"""

from __future__ import annotations

import difflib
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
from fastsam2.config import CONFIGS, HF_MODEL_IDS, checkpoint_name, find_config
from fastsam2.errors import CheckpointError, ConfigError

__all__ = ["download", "infer_config", "load_checkpoint", "load_state_dict", "resolve_model"]

_SUFFIXES = (".pt", ".pth", ".safetensors")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, under their official names.

    Args:
        path: a file, or a folder written by `save_pretrained` of transformers' `Sam2VideoModel` or
            `Sam2Model`. What a file is, is read from its first bytes, not from its suffix.

    Returns:
        Name to tensor. The tensors are views of the mapped file where its format allows: copy what
        must outlive the file, as `load_checkpoint` does.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint, damaged, or not plain data.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        state_dict = _read_folder(path)
    elif path.exists():
        state_dict = _read_file(path)
    else:
        raise CheckpointError(f"{path}: no such file")
    return convert_hf_state_dict(state_dict) if is_hf_state_dict(state_dict) else state_dict


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
            raise CheckpointError(f"{path}: damaged or truncated ({_line(error)})") from None
    return _read_pickle(path, mmap=head.startswith(b"PK"))


def _read_pickle(path: Path, mmap: bool) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise CheckpointError(
                f"{path}: holds more than tensors ({found[1]}), which could run code; not loaded"
            ) from None
        raise CheckpointError(f"{path}: not a checkpoint, or damaged") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({_line(error)})") from None
    state_dict = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise CheckpointError(f"{path}: holds {type(state_dict).__name__}, not a state dict")
    other = [name for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(f"{path}: not a state dict, {_few(other)} are no tensors")
    return dict(state_dict)


def infer_config(state_dict: Mapping[str, Tensor]) -> str:
    """Short name of the model that these tensors (official names) belong to.

    The trunk's width and depth tell the size. The family shows in two parts that SAM 2.1 added: the
    embedding of hidden objects and the projection of the pointers' time code.

    Raises:
        CheckpointError: no known model is built like that; the message says what was seen.
    """
    if not state_dict:
        raise CheckpointError("no model has no tensors")
    patch_embed = state_dict.get("image_encoder.trunk.patch_embed.proj.weight")
    if patch_embed is None:
        names = _few(sorted(state_dict))
        raise CheckpointError(f"not the weights of a SAM 2 model; its tensors: {names}")
    if not any(name.startswith("memory_encoder.") for name in state_dict):
        raise CheckpointError(
            "weights of an image model alone (no memory encoder): SAM 2 or 2.1 cannot be told apart"
        )
    blocks = {
        m[1]
        for name in state_dict
        if (m := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name))
    }
    seen = (
        patch_embed.shape[0],
        len(blocks),
        "no_obj_embed_spatial" in state_dict,
        "obj_ptr_tpos_proj.weight" in state_dict,
    )
    for name, config in CONFIGS.items():
        trunk = config.image_encoder.trunk
        if seen == (
            trunk.embed_dim,
            sum(trunk.stages),
            config.no_obj_embed_spatial,
            config.proj_tpos_enc_in_obj_ptrs,
        ):
            return name
    has = {True: "with", False: "without"}
    raise CheckpointError(
        f"no known model has a trunk {seen[0]} wide and {seen[1]} blocks deep, "
        f"{has[seen[2]]} no_obj_embed_spatial and {has[seen[3]]} obj_ptr_tpos_proj; "
        "name the configuration"
    )


def load_checkpoint(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    device: torch.device | str | None = None,
    name: str = "state dict",
) -> None:
    """Give `model` the weights of `source`, all of them or none.

    A model on the meta device gets its tensors one at a time, in its own dtypes, straight onto
    `device` (the CPU by default), so that the weights are never held twice; what no checkpoint
    holds, such as a buffer that is not persistent, stays as it is. The weights of any other model
    are overwritten where they are, and `device` must not be given.

    Args:
        model: a module with the official parameter names.
        source: a path as for `load_state_dict`, or what it returned.
        name: what messages call a `source` that is not a path.

    Raises:
        CheckpointError: as `load_state_dict`; or tensors are missing, unexpected, or of another
            shape. One message lists them all.
        ValueError: `device` was given with a model that has weights already.
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
    # Copies: weights that were views of the mapped file would change, or crash, with the file.
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
            belongs = f" (they look like {infer_config(state_dict)})"
        except CheckpointError:
            belongs = ""
        raise CheckpointError(
            f"{origin}: weights do not fit the model{belongs}; {'; '.join(faults)}"
        )


def download(name: str) -> Path:
    """Fetch a model's weights from the Hugging Face hub, or find them in its cache.

    Those of `nano` are part of the package.

    Args:
        name: a short name or official id, for the official checkpoint file; any other repository
            id, for a folder in the format of transformers.

    Returns:
        The checkpoint file, or the folder.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such repository or file, or asks for
            a login.
    """
    short = find_config(name)
    if short == "nano":
        return _bundled()
    if short is None:
        _fetch(name, _WEIGHTS)
        return _fetch(name, "config.json").parent
    repo_id = next(repo for repo, known in HF_MODEL_IDS.items() if known == short)
    return _fetch(repo_id, checkpoint_name(short))


def _bundled() -> Path:
    """The weights of nano, which come with the package."""
    path = Path(__file__).parents[1] / "nano" / "nano.safetensors"
    if not path.exists():
        raise CheckpointError(
            "the weights of nano are not part of this installation; "
            "`python -m training.nano.train` makes them"
        )
    return path


def _fetch(repo_id: str, filename: str) -> Path:
    # Only downloads pay for the import; and the function is looked up when called, so that a
    # program that replaces it is heard.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(repo_id=repo_id, filename=filename))
    except errors.GatedRepoError:
        reason = (
            f"access is restricted; accept its terms at hf.co/{repo_id} and run `hf auth login`"
        )
    except errors.RepositoryNotFoundError:
        near = difflib.get_close_matches(repo_id, HF_MODEL_IDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ", or it is private: run `hf auth login`"
        reason = f"there is no such repository{hint}"
    except errors.LocalEntryNotFoundError:
        reason = (
            "the hub cannot be reached and the file is not in the cache; download it "
            "elsewhere and pass its path"
        )
    except errors.EntryNotFoundError:
        reason = "the repository has no such file"
    except Exception as error:  # whatever the HTTP library below raises
        reason = f"{_line(error)}; download it elsewhere and pass its path"
    raise CheckpointError(f"cannot get {filename} of {repo_id}: {reason}") from None


def resolve_model(name_or_path: str | Path) -> tuple[str | None, Path]:
    """Find the weights that a name or a path stands for, downloading them if need be.

    Args:
        name_or_path: a short name (`sam2.1-tiny`), official YAML name or Hugging Face id; or the
            path of a `.pt`, `.pth` or `.safetensors` file or of a folder written by transformers.

    Returns:
        Short name of the configuration, None where only the tensors tell (see `infer_config`); and
        the path for `load_state_dict`.

    Raises:
        ConfigError: neither a known name nor a path nor a repository id.
        CheckpointError: a path that does not exist, or as `download`.
    """
    name = str(name_or_path)
    short = find_config(name)
    if short is not None:
        return short, download(short)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return None, path
    if isinstance(name_or_path, Path) or path.suffix in _SUFFIXES or re.match(r"[./~]", name):
        raise CheckpointError(f"{path}: no such file")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None, download(name)
    near = difflib.get_close_matches(name, [*CONFIGS, *HF_MODEL_IDS], n=1, cutoff=0.0)[0]
    raise ConfigError(f"unknown model {name!r}; nearest is {near!r}")


def _few(names: Iterable[Any], limit: int = 4) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _line(error: BaseException) -> str:
    """First line of an error's message, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
