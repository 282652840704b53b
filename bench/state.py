"""State of a results folder: finished parts and results of tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsam2.data.files import write_whole

__all__ = ["read_state", "update_state"]


def read_state(folder: Path, topic: str) -> dict[str, Any]:
    """Read the entries of a topic."""
    path = folder / "state.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found.get(topic, {})


def update_state(folder: Path, topic: str, entries: Mapping[str, Any]) -> None:
    """Add or replace entries of a topic, atomically."""
    path = folder / "state.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[topic] = {**found.get(topic, {}), **entries}
    write_whole(path, f"{json.dumps(found, indent=1)}\n".encode())
