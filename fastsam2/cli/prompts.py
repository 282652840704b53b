"""Parse the prompts given on the command line and check them against the video."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastsam2.errors import InputError

__all__ = ["Canvas", "ObjectPrompt", "check_given", "collect_prompts"]

_SYNTAX = {
    "--point": "X,Y[,0|1][@FRAME][:OBJ]",
    "--box": "X0,Y0,X1,Y1[@FRAME][:OBJ]",
    "--mask": "PNG[@FRAME][:OBJ]",
}


@dataclass(frozen=True)
class Canvas:
    """Name and size of the video or image that prompts refer to."""

    name: str
    num_frames: int | None  #: None if unknown
    height: int
    width: int

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass
class ObjectPrompt:
    """All prompts for one object on one frame; a mask cannot be combined with others."""

    frame: int
    obj_id: int
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    mask: Any = None  #: bool `[H, W]`


def collect_prompts(
    canvas: Canvas,
    points: Sequence[str],
    boxes: Sequence[str],
    masks: Sequence[str] | None,
    default_frame: int,
) -> list[ObjectPrompt]:
    """Parse the values of `--point`, `--box` and `--mask`.

    Args:
        canvas: video or image that the prompts refer to.
        points: values of `--point`.
        boxes: values of `--box`.
        masks: values of `--mask`; None if the command has no such option.
        default_frame: frame of prompts without `@FRAME`.

    Returns:
        Prompts sorted by frame and object.

    Raises:
        InputError: no prompts, one that cannot be parsed, or one that does not fit `canvas`.
    """
    check_given(points, boxes, masks)
    found: dict[tuple[int, int], ObjectPrompt] = {}

    def prompt(frame: int, obj_id: int) -> ObjectPrompt:
        return found.setdefault((frame, obj_id), ObjectPrompt(frame, obj_id))

    for text in points:
        body, frame, obj_id = _split("--point", text, canvas, default_frame)
        x, y, label = _point(text, body)
        if not (0 <= x < canvas.width and 0 <= y < canvas.height):
            raise InputError(f"--point {text} lies outside {canvas.name}, which is {canvas.size}")
        target = prompt(frame, obj_id or 1)
        target.points.append((x, y))
        target.labels.append(label)
    for text in boxes:
        body, frame, obj_id = _split("--box", text, canvas, default_frame)
        target = prompt(frame, obj_id or 1)
        if target.box is not None:
            raise InputError(
                f"--box {text}: object {target.obj_id} has a box on frame {frame} already"
            )
        target.box = _box(text, body, canvas)
    for text in masks or ():
        body, frame, obj_id = _split("--mask", text, canvas, default_frame)
        for mask_id, mask in _read_masks(Path(body), obj_id, canvas).items():
            target = prompt(frame, mask_id)
            if target.points or target.box or target.mask is not None:
                raise InputError(
                    f"--mask {text}: object {mask_id} has another prompt on frame {frame} already"
                )
            target.mask = mask
    return [found[key] for key in sorted(found)]


def check_given(points: Sequence[str], boxes: Sequence[str], masks: Sequence[str] | None) -> None:
    """Raise InputError if there is no prompt of any kind; arguments as of `collect_prompts`."""
    if not any((points, boxes, masks)):
        options = "--point or --box" if masks is None else "--point, --box or --mask"
        raise InputError(f"no prompts: use {options} to select an object")


def _split(
    option: str, text: str, canvas: Canvas, default_frame: int
) -> tuple[str, int, int | None]:
    """Split a prompt into body, frame and object id."""
    body = ".+?" if option == "--mask" else "[^@:]+"
    match = re.fullmatch(rf"({body})(?:@(\d{{1,18}}))?(?::(\d{{1,18}}))?", text)
    if match is None:
        raise _unreadable(option, text)
    frame = default_frame if match[2] is None else int(match[2])
    if canvas.num_frames is not None and frame >= canvas.num_frames:
        raise InputError(
            f"{option} {text}: there is no frame {frame}; {canvas.name} has "
            f"frames 0 to {canvas.num_frames - 1}"
        )
    obj_id = None if match[3] is None else int(match[3])
    if obj_id is not None and not 1 <= obj_id <= 255:
        raise InputError(f"{option} {text}: the object id must be 1 to 255, not {obj_id}")
    return match[1], frame, obj_id


def _unreadable(option: str, text: str) -> InputError:
    return InputError(f"cannot read {option} {text!r}: expected {_SYNTAX[option]}")


def _numbers(option: str, text: str, body: str) -> list[float]:
    try:
        numbers = [float(part) for part in body.split(",")]
    except ValueError:
        raise _unreadable(option, text) from None
    if not all(math.isfinite(number) for number in numbers):
        raise InputError(f"{option} {text} holds a value that is not a finite number")
    return numbers


def _point(text: str, body: str) -> tuple[float, float, int]:
    numbers = _numbers("--point", text, body)
    if len(numbers) not in (2, 3):
        raise _unreadable("--point", text)
    label = numbers[2] if len(numbers) == 3 else 1
    if label not in (0, 1):
        raise InputError(
            f"--point {text}: the label must be 1 (object) or 0 (background), not {label:g}"
        )
    return numbers[0], numbers[1], int(label)


def _box(text: str, body: str, canvas: Canvas) -> tuple[float, float, float, float]:
    numbers = _numbers("--box", text, body)
    if len(numbers) != 4:
        raise _unreadable("--box", text)
    x0, y0, x1, y1 = numbers
    if not (x0 < x1 and y0 < y1):
        raise InputError(f"--box {text} is empty: X0 < X1 and Y0 < Y1 are required")
    if x0 < 0 or y0 < 0 or x1 > canvas.width or y1 > canvas.height:
        raise InputError(f"--box {text} exceeds {canvas.name}, which is {canvas.size}")
    return x0, y0, x1, y1


def _read_masks(path: Path, obj_id: int | None, canvas: Canvas) -> dict[int, Any]:
    """Read masks by object id: one per index of a palette image, else a single one."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, size = image.mode, (image.width, image.height)
            if size == (canvas.width, canvas.height):
                pixels = np.array(image)
    except FileNotFoundError:
        raise InputError(f"no such mask: {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the mask {path}: {error}") from None
    if mode not in ("1", "L", "P"):
        raise InputError(
            f"the mask {path} has pixel mode {mode}: expected a palette, grey or black and white "
            "image"
        )
    if size != (canvas.width, canvas.height):
        raise InputError(
            f"the mask {path} is {size[0]}x{size[1]} pixels, but {canvas.name} is {canvas.size}"
        )
    ids = [int(value) for value in np.unique(pixels) if value]
    if not ids:
        raise InputError(f"the mask {path} is empty")
    if mode == "P" and obj_id is None:
        return {value: pixels == value for value in ids}
    if mode == "L" and len(ids) > 1:
        raise InputError(
            f"the grey mask {path} has {len(ids)} levels besides 0: use one level, or a palette "
            "image for several objects"
        )
    return {obj_id or 1: pixels != 0}
