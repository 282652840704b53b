"""`fastsam2 eval`: measure J and F on annotated videos; print a table, write JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer

from fastsam2.cli.models import ModelChoice
from fastsam2.cli.output import OutputError, prepare_folder
from fastsam2.cli.progress import frame_progress
from fastsam2.cli.reporting import undivided
from fastsam2.data.files import write_whole
from fastsam2.evaluation.davis import open_davis
from fastsam2.evaluation.results import Means, SequenceResult, mean_of
from fastsam2.evaluation.run import check_prompt
from fastsam2.evaluation.run import evaluate as evaluate_sequence

__all__ = ["EvaluationRequest", "evaluate"]

_TITLES = ("objects", "frames", "J&F", "J", "F", "frames/s")
_WIDTHS = (7, 6, 5, 5, 5, 8)
_ALL = "all"


@dataclass(frozen=True)
class EvaluationRequest:
    """Arguments of the command; see its options."""

    folder: Path
    model: ModelChoice
    prompt: str = "mask"
    json_file: Path | None = None
    limit: int | None = None


def evaluate(request: EvaluationRequest) -> None:
    """Run the command: track and measure each sequence, and print its row."""
    prompt = check_prompt(request.prompt)
    davis = open_davis(request.folder)
    # Check all sequences first: a missing file is reported now, not after an hour.
    sequences = [davis.sequence(name) for name in davis.names[: request.limit]]
    results: list[SequenceResult] = []
    _check_writable(request.json_file)
    predictor = request.model.video_predictor()
    table = _Table([sequence.name for sequence in sequences])
    for sequence in sequences:
        results.append(evaluate_sequence(_WithBar(predictor, sequence.name), sequence, prompt))
        with undivided():
            if len(results) == 1:
                table.show_head()
            table.show(results[-1].name, [results[-1]])
            _write(request, results, complete=len(results) == len(sequences))
    table.show(_ALL, results)
    auc = _means(results).score_auc
    if not math.isnan(auc):
        typer.echo(f"\nobject score: AUC {auc:.3f}")
    if request.json_file is not None:
        typer.echo(f"\n  results  {request.json_file}")
    if request.model.hint:
        typer.echo(request.model.hint)


class _WithBar:
    """A video predictor whose progress bar has a title and shows on terminals only."""

    def __init__(self, predictor: Any, name: str) -> None:
        self._predictor = predictor
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    @torch.inference_mode()
    def propagate_in_video(
        self,
        inference_state: Any,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
    ) -> Iterator[tuple[int, Any, Any]]:
        for result in self._predictor.propagate(
            inference_state,
            start_frame_idx,
            max_frame_num_to_track,
            progress=frame_progress(self._name, leave=False),
        ):
            yield result.frame_idx, result.obj_ids, result.logits


class _Table:
    """Table with aligned columns; rows are printed one at a time."""

    def __init__(self, names: list[str]) -> None:
        self._width = max(map(len, [*names, _ALL, "sequence"]))

    def show_head(self) -> None:
        self._print("sequence", _TITLES)

    def show(self, name: str, results: list[SequenceResult]) -> None:
        """Print the row of one sequence, or of several pooled."""
        means = _means(results)
        self._print(
            name,
            (
                str(means.num_objects),
                str(sum(result.num_frames for result in results)),
                *(_percent(value) for value in (means.j_and_f, means.j, means.f)),
                f"{_rate(results):.1f}",
            ),
        )

    def _print(self, name: str, cells: Iterable[str]) -> None:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)]
        typer.echo("  ".join([f"{name:{self._width}}", *aligned]))


def _means(results: list[SequenceResult]) -> Means:
    return mean_of(obj for result in results for obj in result.objects)


def _rate(results: list[SequenceResult]) -> float:
    """Frames tracked per second."""
    seconds = sum(result.seconds for result in results)
    return sum(result.tracked_frames for result in results) / seconds if seconds else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _check_writable(path: Path | None) -> None:
    """Raise OutputError if the file cannot be written."""
    if path is not None:
        prepare_folder(path.parent, [], overwrite=False)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")


def _write(request: EvaluationRequest, results: list[SequenceResult], *, complete: bool) -> None:
    """Write the results so far, so that an interruption loses one sequence at most.

    Raises:
        OutputError: the file cannot be written.
    """
    if request.json_file is None:
        return
    document = {
        **_numbers(_means(results)),
        "frames_per_second": _known(_rate(results)),
        "data": str(request.folder),
        "model": request.model.title,
        "prompt": request.prompt,
        "sequences": [_sequence(result) for result in results],
        "complete": complete,
    }
    try:
        write_whole(request.json_file, json.dumps(document, allow_nan=False, indent=1).encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {request.json_file}: {reason}") from error


def _sequence(result: SequenceResult) -> dict[str, Any]:
    objects = [
        {"id": obj.obj_id, "prompt_frame": obj.prompt_frame, **_numbers(obj.means)}
        for obj in result.objects
    ]
    return {
        "name": result.name,
        **_numbers(result.means),
        "frames": result.num_frames,
        "frames_per_second": _known(_rate([result])),
        "objects": objects,
    }


def _numbers(means: Means) -> dict[str, float | None]:
    return {name: _known(getattr(means, name)) for name in ("j_and_f", "j", "f", "score_auc")}


def _known(value: float) -> float | None:
    """Number for JSON: None for NaN."""
    return None if math.isnan(value) else round(value, 6)
