"""Run a program that was written for sam2: only the name in its imports has changed."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastsam2.nano.synthetic import make_clip
from fastsam2.sam2_video_predictor import SAM2VideoPredictor  # from sam2.sam2_video_predictor

video_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "out") / "frames"
video_dir.mkdir(parents=True, exist_ok=True)
for number, frame in enumerate(make_clip(seed=910_010, frames=12, objects=3).frames):
    Image.fromarray(frame).save(video_dir / f"{number:05d}.jpg", quality=95)

predictor = SAM2VideoPredictor.from_pretrained("nano")  # "facebook/sam2.1-hiera-tiny"
with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
    inference_state = predictor.init_state(video_path=str(video_dir))
    _, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
        inference_state=inference_state,
        frame_idx=0,
        obj_id=1,
        points=np.array([[46, 189]], dtype=np.float32),
        labels=np.array([1], dtype=np.int32),
    )
    video_segments = {}
    for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(
        inference_state
    ):
        video_segments[out_frame_idx] = {
            out_obj_id: (out_mask_logits[i] > 0.0).cpu().numpy()
            for i, out_obj_id in enumerate(out_obj_ids)
        }
print({frame_idx: int(masks[1].sum()) for frame_idx, masks in video_segments.items()})
