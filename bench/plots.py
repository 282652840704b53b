"""Plot rows; requires matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from bench.ladder import RUNGS
from bench.report import iou_of
from bench.rows import Row, conditions
from bench.scenarios import PEERS

__all__ = ["draw"]

#: Colours by Okabe and Ito, safe for colour blindness.
_COLOURS = {
    "sam2": "#999999",
    "sam2 vos_optimized": "#555555",
    "transformers": "#E69F00",
    "fastsam2": "#0072B2",
}
_STAGES = {
    "image encoder": "#0072B2",
    "memory attention": "#D55E00",
    "mask decoder": "#009E73",
    "memory encoder": "#CC79A7",
}


def draw(rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Save the plots for which there are rows; yield their paths."""
    for name, plot in (
        ("frames_per_second", _frames_per_second),
        ("ladder", _ladder),
        ("stages", _stages),
        ("memory", _memory),
    ):
        figure = plot(rows)
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110)
            plt.close(figure)
            yield path


def _figure(used: Sequence[Row], panels: int, height: float = 4.0) -> tuple[Any, list[Any]]:
    """Make a figure with two panels per row, and the conditions at the bottom."""
    columns = min(2, panels)
    lines = -(-panels // columns)
    size = (max(7.0, 5.5 * columns), lines * height)
    figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    figure.supxlabel(conditions(used), fontsize=7, color="#666666")
    axes = list(grid.flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def _frames_per_second(rows: Sequence[Row]) -> Any:
    used = [r for r in rows if r.kind == "track" and r.per_second and r.impl in PEERS]
    models = list(dict.fromkeys((r.model, r.image_size, r.dtype) for r in used))
    if not models:
        return None
    figure, axes = _figure(used, len(models))
    for axis, (model, size, dtype) in zip(axes, models, strict=True):
        here = [r for r in used if (r.model, r.image_size, r.dtype) == (model, size, dtype)]
        for name in PEERS:
            line = sorted((r.objects or 0, r.per_second) for r in here if r.impl == name)
            if line:
                axis.plot(*zip(*line, strict=True), "o-", color=_COLOURS[name], label=name)
        counts = sorted({r.objects for r in here if r.objects})
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.minorticks_off()
        ticks = _round_numbers([r.per_second for r in here if r.per_second])
        axis.set_yticks(ticks, [f"{x:g}" for x in ticks])
        axis.set(xlabel="objects", ylabel="frames per second", title=f"{model}, {size} px, {dtype}")
        axis.legend(frameon=False)
    return figure


def _round_numbers(values: Sequence[float]) -> list[float]:
    """Ticks 1, 2, 5, 10, ... that cover the values."""
    steps = [m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)]
    low = max([x for x in steps if x <= min(values)], default=steps[0])
    high = min([x for x in steps if x >= max(values)], default=steps[-1])
    return [x for x in steps if low <= x <= high]


def _ladder(rows: Sequence[Row]) -> Any:
    used = [r for r in rows if r.kind == "track" and r.per_second and r.impl in RUNGS]
    groups = list(dict.fromkeys((r.model, r.image_size, r.dtype, r.objects) for r in used))
    # Skip groups without rows of fastsam2.
    groups = [g for g in groups if any(_group(r) == g and r.impl not in PEERS for r in used)]
    if not groups:
        return None
    names = [name for name in RUNGS if any(r.impl == name for r in used)]
    figure, axes = _figure(used, len(groups), 1.4 + 0.45 * len(names))
    for i, (axis, group) in enumerate(zip(axes, groups, strict=True)):
        here = {r.impl: r for r in used if _group(r) == group}
        rates = [here[name].per_second or 0.0 if name in here else 0.0 for name in names]
        colours = [_COLOURS.get(name, "#0072B2") for name in names]
        axis.barh(names, rates, color=colours, height=0.7)
        for y, (name, rate) in enumerate(zip(names, rates, strict=True)):
            if rate:
                iou = iou_of(here[name], rows)
                text = f" {rate:.3g}" + (f"   IoU {iou:.4f}" if iou is not None else "")
                axis.text(rate, y, text, va="center", fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.35)
        axis.grid(visible=False, axis="y")
        axis.set(xlabel="frames per second", title=_title(group))
        if i % 2:
            axis.set_yticklabels([])
    return figure


def _group(row: Row) -> tuple[str, int | None, str, int | None]:
    return row.model, row.image_size, row.dtype, row.objects


def _title(group: tuple[str, int | None, str, int | None]) -> str:
    model, size, dtype, objects = group
    return f"{model}, {size} px, {dtype}, {objects} object{'s' * (objects != 1)}"


def _stages(rows: Sequence[Row]) -> Any:
    used = [r for r in rows if r.kind == "stage" and r.p50_ms and r.name in _STAGES]
    groups = list(dict.fromkeys(_group(r) for r in used))
    if not groups:
        return None
    names = list(dict.fromkeys(r.impl for r in used))
    figure, axes = _figure(used, len(groups), 1.8 + 0.5 * len(names))
    for axis, group in zip(axes, groups, strict=True):
        left = dict.fromkeys(names, 0.0)
        for stage, colour in _STAGES.items():
            times = {
                r.impl: r.p50_ms or 0.0 for r in used if r.name == stage and _group(r) == group
            }
            widths = [times.get(name, 0.0) for name in names]
            axis.barh(
                names, widths, left=list(left.values()), color=colour, label=stage, height=0.6
            )
            left = {name: left[name] + width for name, width in zip(names, widths, strict=True)}
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set(xlabel="milliseconds per frame, each stage alone", title=_title(group))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _memory(rows: Sequence[Row]) -> Any:
    used = [r for r in rows if r.kind == "memory" and r.peak_mb]
    if not used:
        return None
    figure, (axis,) = _figure(used, 1)
    for name, colour in (("full", "#D55E00"), ("window", "#009E73"), ("stream", "#0072B2")):
        line = [(r.frames or 0, r.peak_mb or 0.0) for r in used if r.name == name]
        if line:
            frames, taken = zip(*line, strict=True)
            axis.plot(frames, [x - taken[0] for x in taken], color=colour, label=name)
    axis.set(xlabel="frame", ylabel="growth of process memory, MB")
    axis.set_title(f"{used[0].model}, {used[0].image_size} px, {used[0].objects} objects")
    axis.legend(frameon=False)
    return figure
