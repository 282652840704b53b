"""Find the masks of everything in an image, without prompts."""

import sys
from pathlib import Path

from PIL import Image

from fastsam2 import SAM2AutomaticMaskGenerator
from fastsam2.data import draw_overlay
from fastsam2.nano.synthetic import make_clip

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
out.mkdir(parents=True, exist_ok=True)
image = make_clip(seed=910_010, frames=12, objects=3).frames[0]  # RGB, uint8 [H, W, 3]
generator = SAM2AutomaticMaskGenerator.from_pretrained(
    "nano",  # or "facebook/sam2.1-hiera-tiny"
    points_per_side=8,  # 32 by default: 64 prompts instead of 1024
)
found = generator.generate(image)
for mask in found:
    print(f"box {mask['bbox']}, {mask['area']} pixels, predicted IoU {mask['predicted_iou']:.2f}")

masks = {number: mask["segmentation"] for number, mask in enumerate(found, start=1)}
Image.fromarray(draw_overlay(image, masks)).save(out / "automatic.png")
