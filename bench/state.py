"""What is known of a folder of results: which parts are done, and which tests have passed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_state", "update_state"]


def read_state(folder: Path, topic: str) -> dict[str, Any]:
    """All that is known on a topic."""
    path = folder / "state.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found.get(topic, {})


def update_state(folder: Path, topic: str, entries: Mapping[str, Any]) -> None:
    """Add to what is known on a topic."""
    path = folder / "state.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[topic] = {**found.get(topic, {}), **entries}
    # Whoever is stopped here leaves the old file or the new one.
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
