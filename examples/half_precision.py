"""Track in half precision with everything made ready in advance, and compare with float32."""

import torch

from fastsam2 import Plan, build_sam2_video_predictor_hf
from fastsam2.nano.synthetic import make_clip

video = make_clip(seed=910_010, frames=12, objects=3).frames  # or the path of a video
found = []
# plan="auto" chooses for the device: half precision if it is native, and graphs on CUDA.
for plan in (None, Plan(dtype=torch.bfloat16)):
    predictor = build_sam2_video_predictor_hf("nano", plan=plan)  # or "sam2.1-tiny"
    predictor.warmup(n_objects=2, size=video.shape[1:3])  # now no frame waits for kernels
    state = predictor.init_state(video)
    predictor.add_new_points_or_box(state, 0, obj_id=1, points=[[46, 189]], labels=[1])
    predictor.add_new_points_or_box(state, 0, obj_id=2, points=[[201, 48]], labels=[1])
    found.append(torch.stack([result.masks.cpu() for result in predictor.propagate(state)]))
    print(f"{predictor.plan.dtype}: {found[-1].sum()} pixels")

exact, half = found
print(f"IoU of the masks: {(exact & half).sum() / (exact | half).sum():.4f}")
