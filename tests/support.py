"""Helpers of tests: models with the weights of a reference, clips, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests import reference

#: Overrides of a tiny model whose trunk has five blocks instead of twelve, of every kind: for tests
#: of what follows the trunk.
SHALLOW = (
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
)


class Pair(NamedTuple):
    """The official model and ours with the same weights."""

    name: str
    ref: nn.Module
    ours: SAM2VideoPredictor


def make_pair(name: str, image_size: int = 256, overrides: tuple[str, ...] = ()) -> Pair:
    ref = reference.video_predictor(name, image_size, overrides=overrides)
    return Pair(name, ref, twin(name, ref, image_size, overrides))


def twin(
    name: str, ref: nn.Module, image_size: int = 256, overrides: tuple[str, ...] = ()
) -> SAM2VideoPredictor:
    """Build our video predictor with the weights of `ref` and float32 memory."""
    ours = build_sam2_video_predictor(
        name,
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={image_size}", *overrides],
        memory_dtype=torch.float32,
    )
    ours.load_state_dict(ref.state_dict())
    ours.fill_hole_area = 0
    return ours


def frames_rgb(frames: int, height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    """Draw a textured blob that moves over a textured background, uint8 `[T, H, W, 3]`."""
    rng = np.random.default_rng(seed)

    def texture() -> np.ndarray:
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))

    background, blob = texture(), texture()
    y, x = np.mgrid[:height, :width]
    clip = []
    for t in range(frames):
        centre_x, centre_y = width * (0.3 + 0.02 * t), height * (0.5 + 0.01 * t)
        inside = ((x - centre_x) / (0.2 * width)) ** 2 + ((y - centre_y) / (0.25 * height)) ** 2 < 1
        clip.append(np.where(inside[..., None], blob, np.roll(background, t, axis=1)))
    return np.stack(clip)


def write_clip(folder: Path, frames: int, **kwargs: Any) -> Path:
    """Write `frames_rgb` as numbered JPEG files."""
    for t, frame in enumerate(frames_rgb(frames, **kwargs)):
        Image.fromarray(frame).save(folder / f"{t:05d}.jpg", quality=95)
    return folder


def relative_error(ours: Tensor, ref: Tensor) -> float:
    """Return the largest difference divided by the largest magnitude of the reference, which must
    not be zero."""
    assert ours.shape == ref.shape, (ours.shape, ref.shape)
    if ref.numel() == 0:
        return 0.0
    ours, ref = ours.detach().double(), ref.detach().double()
    scale = ref.abs().max()
    assert scale > 0
    return float((ours - ref).abs().max() / scale)
