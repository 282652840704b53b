"""`fastsam2 segment`: segment objects in an image; write an overlay, a label image and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image

from fastsam2.cli.models import ModelChoice
from fastsam2.cli.output import prepare_folder
from fastsam2.cli.prompts import Canvas, ObjectPrompt, collect_prompts
from fastsam2.cli.reporting import undivided
from fastsam2.data.files import write_whole
from fastsam2.data.images import read_image
from fastsam2.data.live import is_live
from fastsam2.data.overlay import draw_overlay
from fastsam2.data.rle import encode_mask
from fastsam2.data.writers import label_image, write_labels
from fastsam2.errors import InputError
from fastsam2.sam2_image_predictor import SAM2ImagePredictor

__all__ = ["SegmentRequest", "segment"]


@dataclass(frozen=True)
class SegmentRequest:
    """Arguments of the command; see its options."""

    image: str
    output: Path
    model: ModelChoice
    points: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    overwrite: bool = False


def segment(request: SegmentRequest) -> None:
    """Run the command: segment and write the results."""
    if is_live(request.image):
        raise InputError(f"{request.image}: download the image and pass the path of the file")
    image = read_image(request.image)
    canvas = Canvas(Path(request.image).name, 1, *image.shape[:2])
    prompts = collect_prompts(canvas, request.points, request.boxes, None, default_frame=0)
    names = ["overlay.png", "mask.png", "objects.json"]
    prepare_folder(request.output, names, overwrite=request.overwrite)
    predictor = SAM2ImagePredictor(request.model.image_model())
    predictor.set_image(image)
    masks: dict[int, Any] = {}
    scores: dict[int, float] = {}
    for prompt in prompts:
        masks[prompt.obj_id], scores[prompt.obj_id] = _predict(predictor, prompt)
    with undivided():
        _write(request, image, masks, scores)
    typer.echo(", ".join(f"object {k}: score {score:.3f}" for k, score in scores.items()))
    for kind, name in zip(("overlay", "mask", "objects"), names, strict=True):
        typer.echo(f"  {kind:8} {request.output / name}")
    if request.model.hint:
        typer.echo(request.model.hint)


def _predict(predictor: SAM2ImagePredictor, prompt: ObjectPrompt) -> tuple[Any, float]:
    """Return the best mask, bool `[H, W]`, and its predicted IoU."""
    masks, ious, _ = predictor.predict(
        point_coords=np.array(prompt.points, np.float32) if prompt.points else None,
        point_labels=np.array(prompt.labels, np.int32) if prompt.labels else None,
        box=None if prompt.box is None else np.array(prompt.box, np.float32),
        # A single click is ambiguous: take the best of whole, part and subpart.
        multimask_output=len(prompt.points) == 1 and prompt.box is None,
    )
    best = int(np.argmax(ious))
    return masks[best] > 0, float(ious[best])


def _write(
    request: SegmentRequest, image: Any, masks: dict[int, Any], scores: dict[int, float]
) -> None:
    height, width = image.shape[:2]
    document = {
        "image": {"path": request.image, "width": width, "height": height},
        "model": request.model.title,
        "objects": [
            {
                "id": obj_id,
                **encode_mask(mask)._asdict(),
                "score": round(scores[obj_id], 6),
            }
            for obj_id, mask in masks.items()
        ],
    }
    Image.fromarray(draw_overlay(image, masks)).save(request.output / "overlay.png")
    write_labels(request.output / "mask.png", label_image(masks))
    write_whole(request.output / "objects.json", json.dumps(document, allow_nan=False).encode())
