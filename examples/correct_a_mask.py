"""Correct the prompt of an object that was tracked wrongly, then propagate again."""

from fastsam2 import build_sam2_video_predictor_hf
from fastsam2.nano.synthetic import make_clip

predictor = build_sam2_video_predictor_hf(
    "nano",  # or "facebook/sam2.1-hiera-tiny"
    # By default propagation over a corrected frame replaces the correction, as in sam2 1.1.0.
    hydra_overrides_extra=["++model.add_all_frames_to_correct_as_cond=true"],
)
video = make_clip(seed=910_010, frames=12, objects=3).frames  # or the path of a video
state = predictor.init_state(video)

# The second click is on another object, and the tracker follows that one.
points = [[46, 189], [201, 48]]
predictor.add_new_points_or_box(state, 0, obj_id=1, points=points, labels=[1, 1])
before = [result.boxes[0].tolist() for result in predictor.propagate(state)]

# With label 0 the same click says what is not part of the object.
predictor.add_new_points_or_box(state, 0, obj_id=1, points=points, labels=[1, 0])
after = [result.boxes[0].tolist() for result in predictor.propagate(state)]

for frame_idx in (1, 6, 11):
    print(f"frame {frame_idx}: {before[frame_idx]}, corrected {after[frame_idx]}")
