"""Pause a stream, store it in a file, and resume it as another process would."""

import sys
from pathlib import Path

import torch

from fastsam2 import SAM2StreamPredictor
from fastsam2.nano.synthetic import make_clip

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
out.mkdir(parents=True, exist_ok=True)
frames = make_clip(seed=910_010, frames=8, objects=3).frames
predictor = SAM2StreamPredictor.from_pretrained("nano")  # or "facebook/sam2.1-hiera-tiny"

stream = predictor.start()
stream.step(frames[0])
stream.add_object(1, points=[[46, 189]], labels=[1])
for image in frames[1:4]:
    stream.step(image)
torch.save(stream.state_dict(), out / "stream.pt")

resumed = predictor.start()
resumed.load_state_dict(torch.load(out / "stream.pt", weights_only=True))
for image in frames[4:]:
    same = torch.equal(stream.step(image).masks, resumed.step(image).masks)
    print(f"frame {resumed.frame_idx}: the same masks as without the pause: {same}")
