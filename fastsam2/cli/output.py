"""Output folder of a command."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from fastsam2.errors import FastSAM2Error, InputError

__all__ = ["OutputError", "prepare_folder"]

_LABEL_IMAGE = re.compile(r"\d{5,}\.png")


class OutputError(FastSAM2Error, OSError):
    """Results cannot be written."""


def prepare_folder(folder: Path, results: list[str], *, overwrite: bool) -> None:
    """Create `folder`, and remove older results so that they do not mix with new ones.

    Args:
        folder: output folder.
        results: names of the files and folders to be written there. In folders, only label images
            are removed.
        overwrite: remove older results instead of raising.

    Raises:
        OutputError: the folder cannot be created or written to.
        InputError: it holds results already, and `overwrite` is false.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write to the folder {folder}: {reason}") from error
    older = [path for name in results for path in _files(folder / name)]
    if older and not overwrite:
        raise InputError(
            f"{folder} holds results already ({older[0].relative_to(folder)}): "
            "choose another folder or pass --overwrite"
        )
    for path in older:
        path.unlink()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if _LABEL_IMAGE.fullmatch(p.name))
    return [path] if path.exists() else []
