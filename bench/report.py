"""Report rows as Markdown tables and plots: `python -m bench.report DIR` reads DIR/rows.csv.

A speed-up is shown only if the tests of the ops involved have passed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bench.ladder import RUNGS
from bench.rows import Row, conditions, read_rows
from bench.verify import Verdict, ops_of, read_verdicts

__all__ = ["brief", "count_of", "iou_of", "latest", "main", "markdown", "speedup"]

#: Baselines, which need no passing tests.
_OTHERS = ("sam2", "sam2 vos_optimized", "transformers", "reference", "rule")
WITHHELD = "withheld"


def brief(row: Row) -> str:
    """Result of a row in a few words."""
    if row.iou is not None:
        return f"IoU {row.iou:.4f}"
    if row.kind == "roof":
        return f"{row.per_second:.4g} {row.impl}"
    if row.kind == "memory":
        return f"{row.peak_mb:.0f} MB at frame {row.frames}"
    if row.p50_ms is None:
        return row.note
    rate = f", {row.per_second:.2f} per second" if row.per_second else ""
    return f"{row.p50_ms:.2f} ms{rate}"


def _key(row: Row) -> tuple[object, ...]:
    frame = row.frames if row.kind == "memory" else None
    note = row.note if row.kind == "tuning" else ""
    return (*_about(row), row.name, row.impl, frame, note)


def _about(row: Row) -> tuple[object, ...]:
    """Key shared by rows that may be compared, including the conditions."""
    on = (row.device, row.torch, row.triton, row.commit)
    return (row.kind, row.model, row.image_size, row.objects, row.dtype, *on)


def latest(rows: Iterable[Row]) -> list[Row]:
    """Keep the last of rows that measure the same."""
    return list({_key(row): row for row in rows}.values())


def speedup(row: Row, base: str, rows: Iterable[Row], verdicts: Mapping[str, Verdict]) -> str:
    """Speed-up over `base` under the same conditions, `withheld`, or empty if unknown."""
    found = [r for r in rows if r.impl == base and r.name == row.name and _about(r) == _about(row)]
    times = [_milliseconds(r) for r in (*found[-1:], row)]
    if len(times) < 2 or None in times or row.impl == base:
        return ""
    if row.impl not in _OTHERS and not _passed(row, verdicts):
        return WITHHELD
    return f"{times[0] / times[1]:.2f}x"  # type: ignore[operator]


def _milliseconds(row: Row) -> float | None:
    """Time per frame; of `track` over the whole run, since frames may overlap."""
    if row.kind == "track":
        return 1e3 / row.per_second if row.per_second else None
    return row.p50_ms


def _passed(row: Row, verdicts: Mapping[str, Verdict]) -> bool:
    ops = ops_of(row.kind, row.name)
    return all(op in verdicts and verdicts[op].passed for op in ops)


def markdown(rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> str:
    """Format all tables, each with the conditions of its rows."""
    rows = latest(rows)
    parts = []
    for title, make in _TABLES.items():
        used, header, lines = make(rows, verdicts)
        if lines:
            rule = "|---" + "|---:" * (len(header) - 1) + "|"
            table = [_line(header), rule, *(_line(line) for line in lines)]
            parts.append(f"## {title}\n\n{conditions(used)}\n\n" + "\n".join(table))
    shown = "\n\n".join(parts)
    if f"| {WITHHELD} |" in shown:
        shown += "\n\n" + _why_withheld(rows, verdicts)
    return shown


def _why_withheld(rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> str:
    ops = sorted({op for r in rows if r.p50_ms for op in ops_of(r.kind, r.name)})
    reasons = [
        f"{op}: {verdicts[op].summary if op in verdicts else 'tests not run'}"
        for op in ops
        if op not in verdicts or not verdicts[op].passed
    ]
    return f"{WITHHELD.capitalize()}: tests have not passed. " + "; ".join(reasons)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


Table = tuple[list[Row], list[str], list[list[str]]]
Make = Callable[[Sequence[Row], Mapping[str, Verdict]], Table]


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _roofs(rows: Sequence[Row], _: Mapping[str, Verdict]) -> Table:
    used = [r for r in rows if r.kind == "roof"]
    lines = [[f"{r.name}, {r.dtype}", f"{_number(r.per_second, '.4g')} {r.impl}"] for r in used]
    return used, ["limit", "measured"], lines


def _frames(*kinds: str) -> Make:
    def make(rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> Table:
        used = [r for r in rows if r.kind in kinds and (r.impl not in RUNGS or r.impl in _OTHERS)]
        used.sort(key=lambda r: (r.name, r.model, r.dtype, r.objects or 0))
        lines = [
            [
                r.name, f"{r.model}, {r.image_size} px, {r.dtype}", _number(r.objects, "d"), r.impl,
                _number(r.per_second), _number(r.p20_ms), _number(r.p50_ms), _number(r.p80_ms),
                *(speedup(r, base, rows, verdicts) for base in _OTHERS[:2]),
                _number(r.peak_mb, ".0f"), _percent(r.of_roof), r.note,
            ]
            for r in used
        ]  # fmt: skip
        header = [
            "benchmark", "model", "objects", "impl", "frames/s", "p20 ms", "p50 ms", "p80 ms",
            "vs sam2", "vs vos_optimized", "peak MB", "of limit", "note",
        ]  # fmt: skip
        return used, header, lines

    return make


def _ladder(rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> Table:
    used = [r for r in rows if r.kind == "track" and r.impl in RUNGS]
    if not any(r.impl not in _OTHERS for r in used):
        return [], [], []
    order = list(RUNGS)
    used.sort(key=lambda r: (r.model, r.dtype, r.objects or 0, order.index(r.impl)))
    lines = [
        [
            f"{r.model}, {r.image_size} px, {r.dtype}, {count_of(r)}", r.impl,
            _number(r.per_second), speedup(r, "sam2", rows, verdicts),
            _number(iou_of(r, rows), ".4f"), r.note,
        ]
        for r in used
    ]  # fmt: skip
    return used, ["setting", "rung", "frames/s", "vs sam2", "IoU of nano", "note"], lines


def count_of(row: Row) -> str:
    """Number of objects in words: `1 object`, `2 objects`."""
    return f"{row.objects} object{'s' * (row.objects != 1)}"


def iou_of(row: Row, rows: Iterable[Row]) -> float | None:
    """IoU of nano's masks for the same peer, precision, device and commit; None if unknown."""
    found = [
        r.iou
        for r in rows
        if r.kind == "accuracy"
        and (r.impl, r.dtype, r.device, r.commit) == (row.impl, row.dtype, row.device, row.commit)
    ]
    return found[-1] if found else None


def _parts(kind: str, *bases: str) -> Make:
    def make(rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> Table:
        used = [r for r in rows if r.kind == kind]
        used.sort(key=lambda r: (r.model, r.dtype, r.objects or 0))
        lines = [
            [
                r.name, r.dtype, _number(r.objects, "d"), r.impl, _number(r.p50_ms, ".3f"),
                *(speedup(r, base, rows, verdicts) for base in bases), _percent(r.of_roof), r.note,
            ]
            for r in used
        ]  # fmt: skip
        header = [kind, "dtype", "objects", "impl", "p50 ms", *(f"vs {base}" for base in bases)]
        return used, [*header, "of limit", "note"], lines

    return make


def _accuracy(rows: Sequence[Row], _: Mapping[str, Verdict]) -> Table:
    used = [r for r in rows if r.kind == "accuracy"]
    lines = [[r.impl, r.dtype, _number(r.iou, ".4f"), r.note] for r in used]
    return used, ["impl", "dtype", "IoU with float32", "note"], lines


def _tuning(rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> Table:
    """Default and fastest launch of each op and number of objects."""
    used = [r for r in rows if r.kind == "tuning" and r.p50_ms]
    groups: dict[tuple[str, int | None], list[Row]] = {}
    for r in used:
        groups.setdefault((r.name, r.objects), []).append(r)
    lines = []
    for (name, objects), tried in groups.items():
        best = min(tried, key=lambda r: r.p50_ms or 0)
        rule = [r.p50_ms for r in tried if r.impl == "rule"]
        ratio = speedup(best, "rule", used, verdicts)
        lines.append(
            [name, _number(objects, "d"), _number(rule[0] if rule else None, ".3f"),
             _number(best.p50_ms, ".3f"), ratio, str(len(tried)), best.note]
        )  # fmt: skip
    header = ["op", "objects", "rule ms", "fastest ms", "speed-up", "tried", "launch"]
    return used, header, lines


def _memory(rows: Sequence[Row], _: Mapping[str, Verdict]) -> Table:
    used = [r for r in rows if r.kind == "memory"]
    modes: dict[str, list[Row]] = {}
    for r in used:
        modes.setdefault(r.name, []).append(r)
    lines = [
        [name, f"{of[0].frames} to {of[-1].frames}", *(_number(r.peak_mb, ".1f") for r in ends)]
        for name, of in modes.items()
        for ends in [(of[0], of[-1])]
    ]
    return used, ["mode", "frames", "process MB, first", "last"], lines


def _undone(rows: Sequence[Row], _: Mapping[str, Verdict]) -> Table:
    used = [r for r in rows if r.kind == "part" and r.note != "done"]
    return used, ["part of bench.gpu", "status"], [[r.name, r.note] for r in used]


_TABLES: dict[str, Make] = {
    "Hardware limits": _roofs,
    "Frames per second, at full memory": _frames("track"),
    "Ablation": _ladder,
    "From file to masks, and to the first mask": _frames("video", "cold"),
    "Accuracy": _accuracy,
    "Stages of a frame": _parts("stage", "sam2"),
    "Forms of a frame's results": _parts("output"),
    "Ops": _parts("op", "reference", "sam2"),
    "Tuning": _tuning,
    "Memory": _memory,
    "Incomplete parts": _undone,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write tables, and plots if matplotlib is installed."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], prog="python -m bench.report"
    )
    parser.add_argument("folder", type=Path, help="folder of rows.csv and of the report")
    args = parser.parse_args(arguments)
    path = args.folder / "rows.csv"
    if not path.is_file():
        parser.error(f"no such file: {path} (written by `python -m bench.run`)")
    rows = read_rows(path)
    kind = "cpu" if all(" threads" in row.device for row in rows if row.device) else "cuda"
    text = markdown(rows, read_verdicts(args.folder, kind))
    (args.folder / "report.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    try:
        from bench.plots import draw
    except ModuleNotFoundError as error:
        print(f"no plots: {error}")
        return 0
    for drawn in draw(latest(rows), args.folder):
        print(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
