"""Files that are there in full, or not at all."""

from __future__ import annotations

from pathlib import Path

__all__ = ["part_path", "write_whole"]


def part_path(path: Path) -> Path:
    """Where `path` is written until it is complete: next to it, so that renaming is atomic."""
    return path.with_name(f".{path.name}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under another name and renames it."""
    part = part_path(path)
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
