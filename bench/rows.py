"""One row for one measurement, and the file it is kept in.

A row says what ran, how fast, how right, and on what: a table of them needs nothing beside it.
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

#: What dtypes are called on the command line and in rows.
NAMES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Row:
    """A measurement; None where something does not apply or is not known."""

    kind: str  #: roof, op, output, stage, track, video, cold, accuracy, memory, tuning or part
    name: str  #: of the scenario, stage or op
    impl: str  #: who did it
    model: str = ""
    image_size: int | None = None  #: pixels
    objects: int | None = None
    dtype: str = ""
    frames: int | None = None  #: that were timed; of `memory`, the frame it was read at
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    per_second: float | None = None  #: frames; of a roof, GB or TFLOP
    peak_mb: float | None = None  #: of the device; on a CPU, by how much the process has grown
    iou: float | None = None  #: mean of masks against those of the float32 reference
    gflop: float | None = None
    of_roof: float | None = None  #: the least time this machine needs for the work, over p50
    note: str = ""
    device: str = ""
    torch: str = ""
    triton: str = ""
    python: str = ""
    commit: str = ""


def measured_on(device: torch.device) -> dict[str, Any]:
    """The fields of a row that say on what it was measured."""
    return {
        "device": _device_name(device),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "commit": commit(),
    }


def conditions(rows: Iterable[Row]) -> str:
    """On what rows were measured, in one line."""
    seen = list(dict.fromkeys((r.device, r.torch, r.triton, r.commit) for r in rows))
    return "; ".join(
        f"{device}, torch {torch_}, triton {triton or 'none'}, commit {commit_}"
        for device, torch_, triton, commit_ in seen
    )


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file, which is made if it is not there."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if fresh:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: _written(v) for k, v in asdict(row).items()})


def read_rows(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        ValueError: a line that is no row; the message says which.
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
    """The commit of this checkout, with a + where files differ from it.

    The variable `FASTSAM2_COMMIT` names it where there is no git.
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
