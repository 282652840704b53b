from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam2.data.open_frames import open_frames
from fastsam2.data.preprocess import (
    IMAGE_MEAN,
    IMAGE_STD,
    model_input,
    preprocess_frame,
)
from fastsam2.errors import VideoError
from tests import reference  # noqa: F401  (lets sam2 be imported)
from tests.data.videos import moving_frames, write_jpegs

SIZES = [(48, 64), (300, 200), (37, 91)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_jpegs_are_preprocessed_as_in_sam2(tmp_path: Path, height: int, width: int) -> None:
    from sam2.utils.misc import load_video_frames_from_jpg_images

    write_jpegs(tmp_path, moving_frames(3, height, width))
    expected, *size = load_video_frames_from_jpg_images(
        str(tmp_path), 128, offload_video_to_cpu=True, compute_device=torch.device("cpu")
    )
    source = open_frames(tmp_path)
    assert size == [source.height, source.width]
    for frame_idx, frame in enumerate(source):
        assert torch.equal(preprocess_frame(frame, 128), expected[frame_idx])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
def test_other_pixel_modes_too(tmp_path: Path, mode: str) -> None:
    from sam2.utils.misc import _load_img_as_tensor

    path = tmp_path / ("0.jpg" if mode == "CMYK" else "0.png")
    Image.fromarray(moving_frames(1, 90, 120)[0]).convert(mode).save(path)
    image, *_ = _load_img_as_tensor(str(path), 64)
    mean, std = (
        torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD)
    )
    expected = (image.to(torch.float32) - mean) / std
    assert torch.equal(preprocess_frame(open_frames(path)[0], 64), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_normalises_to_the_same_bits() -> None:
    image = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).expand(16, 16, 3).contiguous()
    assert torch.equal(model_input(image.cuda(), 16).cpu(), model_input(image, 16))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), "image.jpg"]
)
def test_invalid_images_are_refused(image: object) -> None:
    with pytest.raises(VideoError, match="the image must be a uint8 array"):
        preprocess_frame(image, 64)  # type: ignore[arg-type]
