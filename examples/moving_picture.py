"""Make the moving picture of the README: three objects tracked from one click each."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fastsam2 import build_sam2_video_predictor_hf
from fastsam2.data import draw_overlay
from fastsam2.nano.synthetic import make_clip

CLICKS = {1: (254, 138), 2: (123, 126), 3: (110, 241)}

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
out.mkdir(parents=True, exist_ok=True)
clip = make_clip(seed=910_008, frames=36, objects=3, size=320)
predictor = build_sam2_video_predictor_hf("nano")
state = predictor.init_state(clip.frames)
for obj_id, click in CLICKS.items():
    predictor.add_new_points_or_box(state, 0, obj_id, points=[click], labels=[1])

pictures = []
for result in predictor.propagate(state):
    video = clip.frames[result.frame_idx]
    masks = dict(zip(result.obj_ids, result.masks.numpy(), strict=True))
    both = Image.fromarray(np.concatenate([video, draw_overlay(video, masks)], axis=1))
    if result.frame_idx == 0:
        pen = ImageDraw.Draw(both)
        for x, y in CLICKS.values():
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill="white", outline="black", width=2)
    pictures.append(both)

# The first frame stays for a second, so that the clicks are seen.
durations = [1000] + [80] * (len(pictures) - 1)
path = out / "tracking.webp"
pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
print(f"{path}: {len(pictures)} frames, {path.stat().st_size / 1000:.0f} kB")
