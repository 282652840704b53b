"""Find weights by name: bundled, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from fastsam2.config import CONFIGS, HF_MODEL_IDS, checkpoint_name, find_config
from fastsam2.errors import CheckpointError, ConfigError, first_line

__all__ = ["download", "resolve_model"]

_SUFFIXES = (".pt", ".pth", ".safetensors")


def download(name: str) -> Path:
    """Download a model's weights from the Hugging Face hub, or find them in its cache.

    The weights of `nano` are bundled with the package.

    Args:
        name: a short name or official id selects the official checkpoint file; any other
            repository id selects a repository in the format of transformers.

    Returns:
        Path of the checkpoint file, or of the folder.

    Raises:
        CheckpointError: the hub cannot be reached, has no such repository or file, or requires a
            login.
    """
    short = find_config(name)
    if short == "nano":
        return _bundled()
    if short is None:
        _fetch(name, "model.safetensors")
        return _fetch(name, "config.json").parent
    repo_id = next(repo for repo, known in HF_MODEL_IDS.items() if known == short)
    return _fetch(repo_id, checkpoint_name(short))


def _bundled() -> Path:
    """Path of the weights of nano, which are bundled with the package."""
    path = Path(__file__).parents[1] / "nano" / "nano.safetensors"
    if not path.exists():
        raise CheckpointError(
            f"the weights of nano are missing from this installation ({path}); reinstall "
            "fastsam2, or train them in a checkout with `python -m training.nano.train`"
        )
    return path


def _fetch(repo_id: str, filename: str) -> Path:
    # Imported here because it is slow; looked up at call time so that it can be patched.
    import huggingface_hub
    from huggingface_hub import errors

    # Errors of the client below the hub; older releases raise an OSError instead.
    transport = [getattr(errors, name, OSError) for name in ("HTTPError", "XetDownloadError")]
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
    except (OSError, ValueError, RuntimeError, *transport) as error:
        reason = f"{first_line(error)}; download it elsewhere and pass its path"
    raise CheckpointError(f"cannot get {filename} of {repo_id}: {reason}") from None


def resolve_model(name_or_path: str | Path) -> tuple[str | None, Path]:
    """Find the weights of a named model, or at a path; download them if necessary.

    Args:
        name_or_path: a short name (`sam2.1-tiny`), official YAML name or Hugging Face id; or the
            path of a `.pt`, `.pth` or `.safetensors` file or of a folder written by transformers.

    Returns:
        Short name of the configuration, or None if only the tensors can tell (see `infer_config`);
        and the path for `load_state_dict`.

    Raises:
        ConfigError: neither a known name nor a path nor a repository id.
        CheckpointError: the path does not exist, or the download failed.
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
