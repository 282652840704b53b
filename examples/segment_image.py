"""Segment objects in one image with points and boxes."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fastsam2 import SAM2ImagePredictor
from fastsam2.data import draw_overlay
from fastsam2.nano.synthetic import make_clip

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
out.mkdir(parents=True, exist_ok=True)
image = make_clip(seed=910_010, frames=12, objects=3).frames[0]  # RGB, or a PIL image
predictor = SAM2ImagePredictor.from_pretrained("nano")  # or "facebook/sam2.1-hiera-tiny"
predictor.set_image(image)

# One click is ambiguous: three masks come back, and the best has the highest predicted IoU.
masks, scores, _ = predictor.predict(point_coords=[[46, 189]], point_labels=[1])
clicked = masks[np.argmax(scores)]
print(f"click: {clicked.sum():.0f} pixels, predicted IoU {scores.max():.2f}")

# Several boxes in one call, one mask each.
boxes = [[166, 15, 234, 109], [53, 70, 127, 131]]
masks, scores, _ = predictor.predict(box=boxes, multimask_output=False)
for mask, score in zip(masks[:, 0], scores[:, 0], strict=True):
    print(f"box: {mask.sum():.0f} pixels, predicted IoU {score:.2f}")

overlay = draw_overlay(image, {1: clicked, 2: masks[0, 0], 3: masks[1, 0]})
Image.fromarray(overlay).save(out / "image.png")
