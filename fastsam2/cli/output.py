"""The folder that results go to."""

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
    """Makes `folder`, and sees to it that no older results get mixed up with the new ones.

    Args:
        folder: where the results will be.
        results: names of the files and folders to be written there. Of a folder, only label
            images are ever removed.
        overwrite: whether older results may be removed.

    Raises:
        OutputError: the folder cannot be made or written to.
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
            "choose another folder, or allow --overwrite"
        )
    for path in older:
        path.unlink()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if _LABEL_IMAGE.fullmatch(p.name))
    return [path] if path.exists() else []
