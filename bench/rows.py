"""Rows of measurements, and the CSV file they are kept in.

A row is self-contained: it holds the configuration, the results and the conditions.
"""

from __future__ import annotations

import csv
import functools
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["NAMES", "Row", "append_rows", "commit", "conditions", "measured_on", "read_rows"]

#: Names of dtypes on the command line and in rows.
NAMES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Row:
    """A measurement; None for values that are unknown or do not apply."""

    #: roof, op, output, stage, track, steady, video, cold, accuracy, memory, tuning or part
    kind: str
    name: str  #: scenario, stage or op
    impl: str  #: peer or implementation
    model: str = ""
    image_size: int | None = None  #: pixels
    objects: int | None = None
    dtype: str = ""
    frames: int | None = None  #: number of timed frames; for `memory`, the frame of the reading
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    per_second: float | None = None  #: frames; for `roof`, GB or TFLOP
    peak_mb: float | None = None  #: peak memory of the device; for `memory`, of the process
    iou: float | None = None  #: mean IoU with the masks of the float32 reference
    gflop: float | None = None
    of_roof: float | None = None  #: lower bound on the time by the hardware's limits, over p50
    note: str = ""
    device: str = ""
    torch: str = ""
    triton: str = ""
    python: str = ""
    commit: str = ""


def measured_on(device: torch.device) -> dict[str, Any]:
    """Fields of a row with the conditions: device, versions and commit."""
    return {
        "device": _device_name(device),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "commit": commit(),
    }


def conditions(rows: Iterable[Row]) -> str:
    """Format the conditions of rows as one line."""
    seen = list(dict.fromkeys((r.device, r.torch, r.triton, r.commit) for r in rows))
    return "; ".join(
        f"{device}, torch {torch_}, triton {triton or 'none'}, commit {commit_}"
        for device, torch_, triton, commit_ in seen
    )


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a CSV file; create it if missing."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if fresh:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: _written(v) for k, v in asdict(row).items()})


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a CSV file.

    Raises:
        ValueError: an invalid line; the message holds its number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return [_row(path, reader.line_num, record) for record in reader]


def _row(path: Path, line: int, record: dict[str, Any]) -> Row:
    try:
        return Row(**{f.name: _read(str(f.type), record[f.name]) for f in fields(Row)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}:{line}: not a row ({error!r})") from None


def _written(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _read(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if not text:
        return None
    return int(text) if kind.startswith("int") else float(text)


@functools.cache
def commit() -> str:
    """Return the short commit hash of this checkout, with a + if files were changed.

    The variable `FASTSAM2_COMMIT` overrides it, for copies without git.
    """
    named = os.environ.get("FASTSAM2_COMMIT")
    if named:
        return named
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name} x {torch.get_num_threads()} threads"


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
