"""Shared helpers of the tests of the image predictor and the mask generator."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from fastsam2.build_sam import build_sam2
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.sam2_image_predictor import SAM2ImagePredictor
from tests import reference

# These import torchvision, which needs what `reference` defines.
# isort: split
import sam2.automatic_mask_generator
import sam2.utils.misc
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator as OfficialMaskGenerator
from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialImagePredictor

EIGHT = np.ones((3, 3), dtype=int)


@functools.cache
def models(name: str, image_size: int = 256) -> tuple[nn.Module, SAM2Base]:
    """Return the official model with random weights, and ours with the same weights."""
    official = reference.image_model(name, image_size)
    ours = build_sam2(
        reference.CONFIGS[name],
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={image_size}"],
    )
    ours.load_state_dict(official.state_dict())
    return official, ours


def official_predictor(name: str, image_size: int = 256, **kwargs: Any) -> OfficialImagePredictor:
    predictor = OfficialImagePredictor(models(name, image_size)[0], **kwargs)
    let_work(predictor, image_size)
    return predictor


def our_predictor(name: str, image_size: int = 256, **kwargs: Any) -> SAM2ImagePredictor:
    return SAM2ImagePredictor(models(name, image_size)[1], **kwargs)


def official_generator(model: nn.Module, **kwargs: Any) -> OfficialMaskGenerator:
    generator = OfficialMaskGenerator(model, **kwargs)
    let_work(generator.predictor, generator.predictor.model.image_size)
    return generator


def let_work(predictor: OfficialImagePredictor, image_size: int) -> None:
    """Set the official predictor's feature sizes, which it only has for 1024 pixels."""
    predictor._bb_feat_sizes = [(image_size // stride,) * 2 for stride in (4, 8, 16)]


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return noise on several scales, as in a photograph: uint8 [H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells in (4, 8, 16, 64):
        noise = torch.randn(1, 3, cells, cells, generator=generator) * (4 / cells) ** 0.5
        image += nn.functional.interpolate(noise, (height, width), mode="bicubic")
    image = (image - image.amin()) / (image.amax() - image.amin())
    return (image[0].permute(1, 2, 0) * 255).byte().numpy()


def assert_same_answers(actual: Any, expected: Any, atol: float = 1e-4) -> None:
    """Check masks, scores and logits of `predict`: equal in shape and dtype, close in value."""
    for name, a, e in zip(("masks", "scores", "logits"), actual, expected, strict=True):
        assert isinstance(a, np.ndarray)
        assert a.shape == e.shape, name
        assert a.dtype == e.dtype == np.float32, name
        assert e.std() > 1e-3 or e.size == 1, f"constant {name} would agree with anything"
        if name == "masks" and np.isin(e, (0, 1)).all():
            assert np.isin(a, (0, 1)).all()
            assert np.mean(a != e) < 1e-4
        else:
            np.testing.assert_allclose(a, e, atol=atol * max(1.0, float(e.std())), rtol=0)


def scipy_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute connected components as the CUDA extension of `sam2` does."""
    labels, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for i in np.ndindex(mask.shape[:-2]):
        labels[i], n = ndimage.label(mask[i].numpy(), EIGHT)
        areas[i] = np.where(
            labels[i] > 0, np.bincount(labels[i].ravel(), minlength=n + 1)[labels[i]], 0
        )
    return torch.from_numpy(labels), torch.from_numpy(areas)


def _components_with_stats(mask: np.ndarray, connectivity: int) -> tuple[int, Any, Any, None]:
    assert connectivity == 8
    labels, n = ndimage.label(mask, EIGHT)
    return n + 1, labels, np.bincount(labels.ravel(), minlength=n + 1)[:, None], None


def greedy_nms(
    boxes: torch.Tensor, scores: torch.Tensor, categories: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Run non-maximum suppression box by box, as torchvision's C++ does."""
    assert not categories.any()
    b = boxes.numpy()
    kept: list[int] = []
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    for i in np.argsort(-scores.numpy(), kind="stable"):
        for j in kept:
            w = max(np.float32(0), min(b[i, 2], b[j, 2]) - max(b[i, 0], b[j, 0]))
            h = max(np.float32(0), min(b[i, 3], b[j, 3]) - max(b[i, 1], b[j, 1]))
            union = area[i] + area[j] - w * h
            if union > 0 and float(w * h / union) > iou_threshold:
                break
        else:
            kept.append(int(i))
    return torch.tensor(kept, dtype=torch.long)


@contextmanager
def official_parts() -> Iterator[None]:
    """Provide the missing dependencies of `sam2`: its CUDA extension, torchvision's NMS, OpenCV."""
    cv2 = types.SimpleNamespace(connectedComponentsWithStats=_components_with_stats)
    with (
        mock.patch.object(sam2.utils.misc, "get_connected_components", scipy_components),
        mock.patch.object(sam2.automatic_mask_generator, "batched_nms", greedy_nms),
        mock.patch.dict("sys.modules", cv2=cv2),
    ):
        yield
