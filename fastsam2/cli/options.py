"""Options shared by several commands."""

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
        help="Click on the object (label 1, the default) or on background (0). Repeatable.",
        rich_help_panel=PROMPTS,
    ),
]
Box = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1[@FRAME][:OBJ]",
        help="Box around the object, in pixels. Repeatable.",
        rich_help_panel=PROMPTS,
    ),
]
Mask = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--mask",
        metavar="PNG[@FRAME][:OBJ]",
        help="Mask of the object. A palette image holds one object per index, unless OBJ is "
        "given. Repeatable.",
        rich_help_panel=PROMPTS,
    ),
]
Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="Model name (sam2.1-tiny), Hugging Face id, or path of a checkpoint.",
        show_default="nano",
        rich_help_panel=MODEL,
    ),
]
Checkpoint = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--checkpoint",
        metavar="PATH",
        help="Checkpoint to load; --model then names the configuration only and is optional.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Device to run on: cuda, cuda:1, cpu.",
        show_default="cuda if available, else cpu",
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
        help="Use the fastest settings for the device: half precision if the hardware supports "
        "it (unless --dtype is given), and CUDA graphs.",
        rich_help_panel=MODEL,
    ),
]
ImageSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="PIXELS",
        help="Side of the model's input, a multiple of 64; smaller is faster and less accurate.",
        show_default="1024; 256 for nano",
        rich_help_panel=MODEL,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the results.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
