"""Track an object through a clip with no download: a synthetic clip, and random weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.cli.main import app

SIZE, FRAMES = (320, 240), 24


def write_clip(path: Path) -> None:
    """A disc that crosses a blurred, coloured background."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(40, 160, (6, 8, 3), dtype=np.uint8))
    background = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for t in range(FRAMES):
            disc = (x - 60 - 8 * t) ** 2 + (y - 110 - 30 * np.sin(t / 4)) ** 2 < 34**2
            image = np.where(disc[..., None], np.uint8([240, 200, 60]), background)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    clip, weights = out / "clip.mp4", out / "random_weights.pt"
    write_clip(clip)
    torch.manual_seed(0)
    predictor = build_sam2_video_predictor("sam2.1-tiny", device="cpu")
    torch.save({"model": predictor.state_dict()}, weights)
    print(
        "These weights are RANDOM: the masks after the first frame mean nothing. Official weights\n"
        "are fetched with `fastsam2 track VIDEO --model sam2.1-tiny`."
    )
    mask = out / "first_mask.png"
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    Image.fromarray((((x - 60) ** 2 + (y - 110) ** 2 < 34**2) * 255).astype(np.uint8)).save(mask)
    options = f"--mask {mask} --model {weights} --image-size 256 --device cpu --overwrite"
    app(["track", str(clip), "--output", str(out / "tracked"), *options.split()])


if __name__ == "__main__":
    main()
