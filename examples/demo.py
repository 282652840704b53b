"""Track two objects of a synthetic clip with the bundled model: no download, no GPU."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fastsam2.cli.main import app
from fastsam2.data.writers import read_labels
from fastsam2.evaluation import boundary_f, jaccard
from fastsam2.evaluation.run import click_in
from fastsam2.nano.synthetic import make_clip

out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo_out")
clip = make_clip(seed=910_010, frames=24, objects=2)
(out / "clip").mkdir(parents=True, exist_ok=True)
for number, image in enumerate(clip.frames):
    Image.fromarray(image).save(out / "clip" / f"{number:05d}.jpg", quality=95)

command = ["track", str(out / "clip"), "-o", str(out / "tracked"), "--overwrite"]
for obj_id in (1, 2):
    x, y = click_in(clip.labels[0] == obj_id)
    command += ["--point", f"{x},{y}:{obj_id}"]
print("fastsam2", *command)
app(command, standalone_mode=False)

# The first frame was clicked on, and does not count.
found = np.stack([read_labels(path) for path in sorted((out / "tracked/masks").glob("*.png"))[1:]])
truth = clip.labels[1:]
scores = [[f(truth == k, found == k).mean() for f in (jaccard, boundary_f)] for k in (1, 2)]
print(f"J&F {100 * np.mean(scores):.1f} on a clip that nano was not trained on")
