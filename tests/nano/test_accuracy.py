"""Accuracy of precisions and schedules, on masks of the trained nano."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsam2.build_sam import build_sam2_video_predictor_hf
from fastsam2.evaluation.metrics import boundary_f, jaccard
from fastsam2.nano.synthetic import Clip, make_clip
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from fastsam2_kernels import dispatch

#: Objects that are clicked on, on frame 0.
CLIPS = {"two objects": (900_100, 1, 2), "three objects": (900_101, 1, 3)}
FRAMES = 12


def clip(name: str) -> Clip:
    seed, level, objects = CLIPS[name]
    return make_clip(seed, FRAMES, level=level, objects=objects)


def track(predictor: SAM2VideoPredictor, video: Clip, frames: int = FRAMES) -> np.ndarray:
    """Track from one click on each object; returns masks `[objects, frames, H, W]`."""
    state = predictor.init_state(list(video.frames[:frames]))
    for obj in range(1, video.objects + 1):
        inside = np.argwhere(video.labels[0] == obj)
        y, x = inside[np.abs(inside - inside.mean(0)).sum(1).argmin()]
        predictor.add_new_points_or_box(state, 0, obj, points=[[x, y]], labels=[1])
    masks = [logits[:, 0] > 0 for _, _, logits in predictor.propagate_in_video(state)]
    return torch.stack(masks, dim=1).numpy()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU over the pixels of all objects and frames."""
    return float((a & b).sum() / (a | b).sum())


def nano(**options: Any) -> SAM2VideoPredictor:
    return build_sam2_video_predictor_hf("nano", device="cpu", **options)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """Masks of the plain modules in float32: a hook disables the fast paths."""
    predictor = nano(memory_dtype=torch.float32)
    for part in (
        predictor.image_encoder,
        predictor.memory_attention,
        predictor.memory_encoder,
        predictor.sam_mask_decoder,
    ):
        part.register_forward_hook(lambda *_: None)
    return {name: track(predictor, clip(name)) for name in CLIPS}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_it_tracks(expected: dict[str, np.ndarray], name: str) -> None:
    video = clip(name)
    for obj, masks in enumerate(expected[name], start=1):
        truth = video.labels == obj
        score = (jaccard(truth, masks).mean() + boundary_f(truth, masks).mean()) / 2
        assert score > 0.8, obj


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_folded_and_batched(expected: dict[str, np.ndarray], name: str) -> None:
    assert iou(track(nano(memory_dtype=torch.float32), clip(name)), expected[name]) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_memory_in_bfloat16(expected: dict[str, np.ndarray], name: str) -> None:
    assert iou(track(nano(), clip(name)), expected[name]) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CLIPS)
def test_half_precision(expected: dict[str, np.ndarray], name: str, dtype: torch.dtype) -> None:
    assert iou(track(nano(dtype=dtype), clip(name)), expected[name]) >= 0.99


@pytest.mark.slow
def test_kernels(expected: dict[str, np.ndarray]) -> None:
    pytest.importorskip("triton")
    if not dispatch.interpreting():
        pytest.skip("needs Triton's interpreter")
    name, frames = "two objects", 4
    found = track(nano(impl="triton", memory_dtype=torch.float32), clip(name), frames)
    assert iou(found, expected[name][:, :frames]) >= 0.999
