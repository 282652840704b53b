"""Sample rows of a benchmark run."""

from __future__ import annotations

from bench.rows import Row

WHERE = {"device": "NVIDIA H200", "torch": "2.11.0", "triton": "3.6.0", "commit": "abc1234"}


def frame(impl: str, per_second: float | None, objects: int = 1, **fields: object) -> Row:
    """Row of tracking with tiny."""
    milliseconds = None if per_second is None else 1e3 / per_second
    known = {"p20_ms": milliseconds, "p50_ms": milliseconds, "p80_ms": milliseconds, **WHERE}
    return Row(
        "track", "frame", impl, "sam2.1-tiny", 1024, objects, "bf16", 48,
        per_second=per_second, **(known | fields),  # type: ignore[arg-type]
    )  # fmt: skip


def accuracy(impl: str, iou: float) -> Row:
    return Row("accuracy", "nano", impl, "nano", 256, 4, "bf16", 24, iou=iou, **WHERE)


def stage(impl: str, name: str, milliseconds: float) -> Row:
    return Row(
        "stage", name, impl, "sam2.1-tiny", 1024, 1, "bf16", p50_ms=milliseconds, of_roof=0.4,
        **WHERE,
    )  # fmt: skip


def a_run() -> list[Row]:
    """Rows of all kinds."""
    rates = {
        "sam2": (48.0, 7.1, 3.6),
        "sam2 vos_optimized": (88.0, 12.0, 6.2),
        "transformers": (40.0, 9.0, 5.0),
        "folded, batched": (60.0, 18.0, 10.5),
        "+ kernels": (95.0, 41.0, 25.0),
        "+ encoding ahead": (120.0, 46.0, 28.0),
        "+ graphs": (240.0, 70.0, 40.0),
        "fastsam2": (240.0, 70.0, 40.0),
    }
    rows = [Row("roof", "copy", "GB/s", dtype="bf16", per_second=4300.0, **WHERE)]
    for impl, each in rates.items():
        rows += [frame(impl, rate, n) for n, rate in zip((1, 8, 16), each, strict=True)]
        rows.append(accuracy(impl, 0.9991))
    for name, theirs, ours in (
        ("image encoder", 5.0, 2.0),
        ("memory attention", 9.0, 3.0),
        ("mask decoder", 3.0, 0.8),
        ("memory encoder", 2.0, 0.4),
    ):
        rows += [stage("sam2", name, theirs), stage("fastsam2", name, ours)]
    for t in range(0, 600, 30):
        rows += [
            Row("memory", mode, "fastsam2", "nano", 256, 3, "fp32", t, peak_mb=900 + each * t,
                **WHERE)
            for mode, each in (("stream", 0.001), ("full", 0.3))
        ]  # fmt: skip
    return rows
