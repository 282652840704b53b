"""Atomic writes: a file appears complete, or not at all."""

from __future__ import annotations

from pathlib import Path

__all__ = ["part_path", "write_whole"]


def part_path(path: Path) -> Path:
    """Temporary name of `path` while it is written; in the same folder, so renaming is atomic."""
    return path.with_name(f".{path.name}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    part = part_path(path)
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
