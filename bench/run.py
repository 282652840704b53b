"""Run benchmarks: `python -m bench.run track --objects 1 8 --dtype bf16`.

Appends rows to `rows.csv` in the folder `--out` and prints them as tables. A speed-up is shown only
if the tests of the ops involved pass; results of the tests are kept in the same folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench import report
from bench.ladder import RUNGS, ladder_rows
from bench.ops import op_rows
from bench.outputs import output_rows
from bench.peers import Peer, Setting
from bench.roofline import roof_rows
from bench.rows import NAMES, Row, append_rows, conditions, measured_on
from bench.scenarios import PEERS, accuracy_rows, cold_rows, track_rows, video_rows
from bench.soak import samples
from bench.stages import stage_rows
from bench.verify import ops_of, read_verdicts, verify
from fastsam2.config import CONFIGS

__all__ = ["REGISTRY", "Request", "main"]

_OP_IMPLS = ("kernel", "gluon", "reference", "sam2")


@dataclass(frozen=True)
class Request:
    """Parsed command line."""

    device: torch.device
    models: Sequence[str]
    image_size: int
    objects: Sequence[int]
    dtypes: Sequence[str]
    impls: Sequence[str]  #: empty for the default of each benchmark
    frames: int

    def settings(self) -> Iterator[Setting]:
        for model in self.models:
            for dtype in self.dtypes:
                yield Setting(model, self.image_size, 1, dtype, self.device)

    def each(self) -> Iterator[Setting]:
        """Yield the settings with each number of objects."""
        for setting in self.settings():
            for n in self.objects:
                yield replace(setting, objects=n)

    def peers(self, known: dict[str, Peer]) -> list[Peer]:
        named = [(PEERS | RUNGS)[name] for name in self.impls if name in PEERS | RUNGS]
        return named or list(known.values())


def _ops(request: Request) -> Iterator[Row]:
    impls = [x for x in request.impls if x in (*_OP_IMPLS, "compiled")] or _OP_IMPLS
    for dtype in request.dtypes:
        yield from op_rows(request.device, dtype, request.image_size, request.objects, impls)


def _memory(request: Request) -> Iterator[Row]:
    for mode in ("stream", "full"):
        for frame, resident, _ in samples(mode, 20 * request.frames, 3, 64):
            where = measured_on(torch.device("cpu"))
            yield Row("memory", mode, "fastsam2", "nano", 64, 3, "fp32", frame,
                      peak_mb=resident / 1e6, **where)  # fmt: skip


#: Benchmarks: name, description and function.
REGISTRY: dict[str, tuple[str, Callable[[Request], Iterator[Row]]]] = {
    "roof": (
        "hardware limits: a copy and a matrix product",
        lambda r: (row for dtype in r.dtypes for row in roof_rows(r.device, NAMES[dtype])),
    ),
    "op": ("each op with a kernel", _ops),
    "output": (
        "the forms of a frame's results: masks, boxes, RLE, copies to the host",
        lambda r: output_rows(r.device, r.image_size, r.objects, r.frames),
    ),
    "stage": (
        "image encoder, memory attention, mask decoder, memory encoder, and track step",
        lambda r: (row for s in r.each() for row in stage_rows(r.peers(PEERS), s)),
    ),
    "track": (
        "whole frames of a preprocessed video, with full memory",
        lambda r: (
            row for s in r.settings() for row in track_rows(r.peers(PEERS), s, r.objects, r.frames)
        ),
    ),
    "ladder": (
        "like track, enabling one option after another, with IoU",
        lambda r: (
            row for s in r.settings() for row in ladder_rows(r.peers(RUNGS), s, r.objects, r.frames)
        ),
    ),
    "video": (
        "from a video file to one PNG of masks per frame",
        lambda r: (row for s in r.each() for row in video_rows(r.peers(PEERS), s, r.frames)),
    ),
    "cold": (
        "from the start of a process to its first tracked mask",
        lambda r: (row for s in r.each() for row in cold_rows(r.peers(PEERS), s)),
    ),
    "accuracy": (
        "IoU of nano's masks with those in float32",
        lambda r: (row for s in r.settings() for row in accuracy_rows(r.peers(PEERS), s, r.frames)),
    ),
    "memory": ("process memory over 20 times `--frames` frames, on the CPU", _memory),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks, write rows and print tables."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"no device {args.device}: PyTorch {torch.__version__} finds no GPU")
    if args.image_size <= 0 or args.image_size % 64:
        parser.error(f"--image-size must be a positive multiple of 64, not {args.image_size}")
    if min(*args.objects, args.frames, 1) < 1:
        parser.error(f"--objects and --frames must be 1 or more, not {args.objects}, {args.frames}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    default = "bf16" if args.device.type == "cuda" else "fp32"
    request = Request(
        args.device, args.model, args.image_size, args.objects, args.dtype or [default],
        args.impl, args.frames,
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print(conditions([Row("", "", "", **measured_on(args.device))]))
    for name in args.names:
        for row in REGISTRY[name][1](request):
            rows.append(row)
            # Immediately, so that an interruption loses nothing.
            append_rows(args.out / "rows.csv", [row])
            of = report.count_of(row) if row.objects else row.dtype
            print(f"{row.name}, {row.impl}, {of}: {report.brief(row)}", flush=True)
    kind = args.device.type
    if args.verify:
        ops = {op for row in rows if row.per_second and row.kind not in ("roof", "memory")
               for op in ops_of(row.kind, row.name)}  # fmt: skip
        print("running the tests of the ops involved, unless they have passed already", flush=True)
        verdicts = verify(sorted(ops), args.out, kind)
    else:
        verdicts = read_verdicts(args.out, kind)
    print(report.markdown(rows, verdicts))
    return 0


def _parser() -> argparse.ArgumentParser:
    known = "\n".join(f"  {name:10} {text}" for name, (text, _) in REGISTRY.items())
    names = ", ".join(f'"{name}"' for name in PEERS | RUNGS)
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description=f"{__doc__}\nNAME is one or more of\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("names", nargs="+", metavar="NAME", choices=REGISTRY)
    parser.add_argument(
        "--impl", nargs="+", default=[], metavar="NAME",
        choices=[*PEERS, *RUNGS, *_OP_IMPLS, "compiled"],
        help=f"peers: {names}; for ops kernel, reference, compiled, sam2 (default: all that apply)",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs="+", default=["sam2.1-tiny"], choices=CONFIGS, metavar="NAME",
        help=f"{', '.join(CONFIGS)}; with random weights, except nano (default: sam2.1-tiny)",
    )  # fmt: skip
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--image-size", type=int, default=1024, help="pixels, a multiple of 64")
    parser.add_argument(
        "--dtype", nargs="+", choices=NAMES, help="default: bf16 on CUDA, fp32 on CPU"
    )
    parser.add_argument(
        "--frames", type=int, default=48 if has_gpu else 5, help="maximum number of timed frames"
    )
    parser.add_argument("--device", type=torch.device, default="cuda" if has_gpu else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; with 1, CPU time is measured")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench_out"),
        help="folder of rows.csv (default: bench_out)",
    )
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false",
        help="run no tests; speed-ups are shown only for ops that have passed already",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
