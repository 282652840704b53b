"""Command line. Commands import their dependencies when they run, so that --help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

import fastsam2
from fastsam2.cli.options import (
    RANGE,
    STREAM,
    Box,
    Checkpoint,
    Device,
    Dtype,
    Fast,
    ImageSize,
    Mask,
    Model,
    Output,
    Overwrite,
    Point,
)
from fastsam2.cli.reporting import OneLineGroup

__all__ = ["app"]

app = typer.Typer(
    name="fastsam2",
    cls=OneLineGroup,
    help="Segment and track objects in images and videos with SAM 2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastsam2 {fastsam2.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Segment and track objects in images and videos with SAM 2."""


@app.command()
def track(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            help="Video files or folders of JPEG or PNG frames; or one live source: camera:0, "
            "a URL (rtsp://, http://, udp://), or - for stdin.",
        ),
    ],
    output: Output,
    point: Point = None,
    box: Box = None,
    mask: Mask = None,
    start: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            metavar="FRAME",
            help="First frame to track, and default frame of prompts.",
            show_default="0",
            rich_help_panel=RANGE,
        ),
    ] = None,
    end: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            metavar="FRAME",
            help="Last frame to track; with --reverse also the default frame of prompts.",
            show_default="last frame",
            rich_help_panel=RANGE,
        ),
    ] = None,
    reverse: Annotated[
        bool,
        typer.Option(
            "--reverse",
            help="Track backward, from the last prompt to --start.",
            rich_help_panel=RANGE,
        ),
    ] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Read the video as a stream, in constant memory; implied by live sources.",
            rich_help_panel=STREAM,
        ),
    ] = False,
    policy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="drop|queue",
            help="Frames that arrive faster than they are tracked: drop all but the newest, or "
            "queue them all.",
            show_default="drop for cameras and URLs, else queue",
            rich_help_panel=STREAM,
        ),
    ] = None,
    frames: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="N",
            help="Stop after N frames.",
            show_default="until the source ends, or Ctrl-C",
            rich_help_panel=STREAM,
        ),
    ] = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    image_size: ImageSize = None,
    fast: Fast = False,
    overwrite: Overwrite = False,
) -> None:
    """Track objects through videos or a live source.

    Frames are numbered from 0, objects from 1: @FRAME and :OBJ set the frame and the object of a
    prompt (default object: 1). Results in FOLDER (for several videos, in a subfolder for each):

    overlay.mp4: the video with the objects drawn on it

    masks/00000.png ...: label images of object ids, in the DAVIS palette

    tracks.json: masks (COCO RLE), boxes and scores

    Examples:

    fastsam2 track dog.mp4 --point 640,400 --point 90,60@30:2 -o out

    fastsam2 track camera:0 --point 320,240 --frames 900 -o out
    """
    from fastsam2.cli.models import ModelChoice
    from fastsam2.cli.request import TrackRequest
    from fastsam2.cli.track import track as run

    run(
        TrackRequest(
            videos=videos,
            output=output,
            model=ModelChoice(model, checkpoint, device, dtype, image_size, fast),
            points=point or [],
            boxes=box or [],
            masks=mask or [],
            start=start,
            end=end,
            reverse=reverse,
            stream=stream,
            policy=policy,
            frames=frames,
            overwrite=overwrite,
        )
    )


@app.command()
def segment(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file.")],
    output: Output,
    point: Point = None,
    box: Box = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    fast: Fast = False,
    image_size: ImageSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Segment objects in an image.

    Objects are numbered from 1: :OBJ sets the object of a prompt (default: 1). Results in FOLDER:

    overlay.png: the image with the objects drawn on it

    mask.png: label image of object ids, in the DAVIS palette

    objects.json: masks (COCO RLE), boxes and scores

    Example:

    fastsam2 segment truck.jpg --point 500,375 --point 900,600,0 -o out
    """
    from fastsam2.cli.models import ModelChoice
    from fastsam2.cli.segment import SegmentRequest
    from fastsam2.cli.segment import segment as run

    run(
        SegmentRequest(
            image=image,
            output=output,
            model=ModelChoice(model, checkpoint, device, dtype, image_size, fast),
            points=point or [],
            boxes=box or [],
            overwrite=overwrite,
        )
    )


@app.command("eval")
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder in the layout of DAVIS 2017."),
    ],
    prompt: Annotated[
        str,
        typer.Option(
            metavar="click|box|mask",
            help="Prompt for each object, on the first frame in which it is annotated.",
        ),
    ] = "mask",
    json_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", metavar="FILE", help="Also write the results as JSON."),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="N",
            help="Evaluate the first N sequences only.",
            show_default="all",
        ),
    ] = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    image_size: ImageSize = None,
    fast: Fast = False,
) -> None:
    """Evaluate tracking on annotated videos with the DAVIS 2017 measures.

    J is the overlap of masks, F the agreement of their boundaries, both in percent. Means are over
    frames, then over objects. Layout of DIR:

    JPEGImages/480p/SEQUENCE/00000.jpg ... (480p/ may be left out)

    Annotations/480p/SEQUENCE/00000.png ...: label images of object ids

    ImageSets/2017/val.txt: names of the sequences (optional; default all)

    Example:

    fastsam2 eval DAVIS --model sam2.1-tiny --json davis.json
    """
    from fastsam2.cli.evaluate import EvaluationRequest
    from fastsam2.cli.evaluate import evaluate as run
    from fastsam2.cli.models import ModelChoice

    run(
        EvaluationRequest(
            folder=folder,
            model=ModelChoice(model, checkpoint, device, dtype, image_size, fast),
            prompt=prompt,
            json_file=json_file,
            limit=limit,
        )
    )


@app.command()
def info() -> None:
    """Show versions, devices and backends."""
    from fastsam2.cli.info import info as run

    run()
