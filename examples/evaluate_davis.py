"""Measure J and F of tracking on a folder in the layout of DAVIS 2017."""

import sys
from pathlib import Path

from fastsam2 import build_sam2_video_predictor_hf
from fastsam2.evaluation import evaluate, mean_of, open_davis
from fastsam2.nano.synthetic import write_davis

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out") / "davis"
write_davis(folder, clips=2, frames=6, seed=910_010)  # or a copy of DAVIS

predictor = build_sam2_video_predictor_hf("nano")  # or "facebook/sam2.1-hiera-tiny"
davis = open_davis(folder)
results = [evaluate(predictor, davis.sequence(name), prompt="click") for name in davis.names]
for result in results:
    means = result.means
    print(f"{result.name}: {means.num_objects} objects, J&F {100 * means.j_and_f:.1f}")
total = mean_of(obj for result in results for obj in result.objects)
print(f"all: J {100 * total.j:.1f}, F {100 * total.f:.1f}, J&F {100 * total.j_and_f:.1f}")
