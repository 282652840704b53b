"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = [
    "MODEL",
    "PROMPTS",
    "RANGE",
    "STREAM",
    "Box",
    "Checkpoint",
    "Device",
    "Dtype",
    "Fast",
    "ImageSize",
    "Mask",
    "Model",
    "Output",
    "Overwrite",
    "Point",
]

PROMPTS, MODEL, RANGE, STREAM = "Prompts", "Model", "Frames", "Live"

Point = Annotated[
    Optional[list[str]],  # noqa: UP045 (Typer reads the annotation at run time)
    typer.Option(
        "--point",
        metavar="X,Y[,0|1][@FRAME][:OBJ]",
        help="A click on the object (1, the default) or beside it (0). Repeatable.",
        rich_help_panel=PROMPTS,
    ),
]
Box = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1[@FRAME][:OBJ]",
        help="A box around the object, in pixels. Repeatable.",
        rich_help_panel=PROMPTS,
    ),
]
Mask = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--mask",
        metavar="PNG[@FRAME][:OBJ]",
        help="The object's mask. A palette image holds several objects, unless OBJ is given. "
        "Repeatable.",
        rich_help_panel=PROMPTS,
    ),
]
Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="A name (sam2.1-tiny), a Hugging Face id, or a file or folder of weights.",
        show_default="nano",
        rich_help_panel=MODEL,
    ),
]
Checkpoint = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--checkpoint",
        metavar="PATH",
        help="Weights to use; --model then only names the configuration, and may be left out.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Where to run: cuda, cuda:1, cpu.",
        show_default="cuda where there is one, else cpu",
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="float32|bfloat16|float16",
        help="Precision of the model.",
        show_default="float32",
        rich_help_panel=MODEL,
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Run as fast as the device can: in half precision where it is made for that, and on "
        "CUDA as graphs.",
        rich_help_panel=MODEL,
    ),
]
ImageSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="PIXELS",
        help="Side of the square the model sees, a multiple of 64: smaller is faster and coarser.",
        show_default="the model's own: 1024, or 256 with nano",
        rich_help_panel=MODEL,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the results.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results in the folder.")]
