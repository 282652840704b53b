"""Track objects on frames that come one by one, as from a camera."""

from fastsam2 import SAM2StreamPredictor
from fastsam2.data import LiveSource
from fastsam2.nano.synthetic import make_clip

# Any iterable of frames, or "camera:0", "rtsp://...", "-" for stdin.
source = make_clip(seed=910_010, frames=12, objects=3).frames
stream = SAM2StreamPredictor.from_pretrained("nano").start()  # or "facebook/sam2.1-hiera-tiny"

with LiveSource(source) as camera:
    for frame in camera:
        result = stream.step(frame.image)
        if result.frame_idx == 0:
            result = stream.add_object("left", points=[[46, 189]], labels=[1])
        if result.frame_idx == 4:
            result = stream.add_object("right", box=[150, 27, 219, 122])
        if result.frame_idx == 8:
            stream.remove_object("left")  # from the next frame on
        print(f"frame {result.frame_idx}:", result.obj_ids, result.boxes.tolist())
