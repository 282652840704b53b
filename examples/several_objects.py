"""Track two objects in one batch: one from a box, the other from a click on a later frame."""

from fastsam2 import build_sam2_video_predictor_hf
from fastsam2.nano.synthetic import make_clip

predictor = build_sam2_video_predictor_hf("nano")  # or "facebook/sam2.1-hiera-tiny"
video = make_clip(seed=910_010, frames=12, objects=3).frames  # or the path of a video
state = predictor.init_state(video)
predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=[166, 15, 234, 109])
predictor.add_new_points_or_box(state, frame_idx=4, obj_id=2, points=[[112, 91]], labels=[1])

for result in predictor.propagate(state):
    areas = result.masks.sum((1, 2)).tolist()
    scores = [f"{score:.2f}" for score in result.object_scores.tolist()]
    print(f"frame {result.frame_idx}: objects {result.obj_ids}, areas {areas}, visible {scores}")
