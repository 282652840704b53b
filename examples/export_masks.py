"""Export tracked masks as palette PNGs, COCO RLE in JSON, and an overlay video."""

import sys
from pathlib import Path

from fastsam2 import build_sam2_video_predictor_hf
from fastsam2.data import MaskPngWriter, OverlayVideoWriter, TrackJsonWriter, draw_overlay
from fastsam2.nano.synthetic import make_clip

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
predictor = build_sam2_video_predictor_hf("nano")  # or "facebook/sam2.1-hiera-tiny"
video = make_clip(seed=910_010, frames=12, objects=3).frames  # or `open_frames("dog.mp4")`
state = predictor.init_state(video)
predictor.add_new_points_or_box(state, 0, obj_id=1, points=[[46, 189]], labels=[1])
predictor.add_new_points_or_box(state, 0, obj_id=2, points=[[201, 48]], labels=[1])

pngs = MaskPngWriter(out / "masks")
with (
    TrackJsonWriter(out / "tracks.json", {"video": "synthetic"}) as tracks,
    OverlayVideoWriter(out / "overlay.mp4", fps=12, size=video.shape[1:3]) as overlay,
):
    for result in predictor.propagate(state):
        masks = dict(zip(result.obj_ids, result.masks.cpu().numpy(), strict=True))
        scores = dict(zip(result.obj_ids, result.object_scores.tolist(), strict=True))
        pngs.write(result.frame_idx, masks)
        tracks.write(result.frame_idx, masks, scores)
        overlay.write(draw_overlay(video[result.frame_idx], masks))
print("written:", *sorted(path.name for path in out.iterdir()))
