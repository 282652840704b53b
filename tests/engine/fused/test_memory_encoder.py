"""The batched memory encoder equals the module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastsam2.engine.fused.memory_encoder import FusedMemoryEncoder
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.memories import features

SIZE = 128

pytestmark = pytest.mark.usefixtures("inference")


def fused(
    model: SAM2VideoPredictor, pix_feat: Tensor, masks: Tensor, presence: Tensor, prompted: bool
) -> Tensor:
    encode = FusedMemoryEncoder.of(model)
    assert encode is not None
    return encode(pix_feat, masks, presence, is_mask_from_pts=prompted)


def by_module(
    model: SAM2VideoPredictor, pix_feat: Tensor, masks: Tensor, presence: Tensor, prompted: bool
) -> Tensor:
    """Encode one object at a time with the module; returns rows of slots."""
    tokens, size = pix_feat.flatten(2).permute(2, 0, 1), tuple(pix_feat.shape[-2:])
    found = [
        model._encode_new_memory([tokens], [size], model._upsample_masks(m), p, prompted)[0]
        for m, p in zip(masks.split(1), presence.split(1), strict=True)
    ]
    return torch.cat(found).flatten(2).transpose(1, 2)


def inputs(model: SAM2VideoPredictor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a frame's features and the masks of three objects, the second of which is absent."""
    masks = 4 * torch.randn(3, 1, SIZE // 4, SIZE // 4)
    masks[1] = -1024.0
    return features(model).pix_feat, masks, torch.tensor([[3.0], [-2.0], [0.5]])


@pytest.mark.parametrize("prompted", [False, True])
def test_equals_the_module_in_float64(model: SAM2VideoPredictor, prompted: bool) -> None:
    model.double()
    arguments = [x.double() for x in inputs(model)]
    out = fused(model, *arguments, prompted)  # type: ignore[call-arg, arg-type]
    expected = by_module(model, *arguments, prompted)  # type: ignore[call-arg, arg-type]
    assert (out - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_only_depthwise_blocks_of_known_width(model: SAM2VideoPredictor) -> None:
    """A full convolution must not be mistaken for a depthwise one."""
    block = model.memory_encoder.fuser.layers[0]
    width = model.hidden_dim
    block.dwconv = nn.Conv2d(width, width, 7, padding=3).eval()  # type: ignore[union-attr]
    assert FusedMemoryEncoder.of(model) is None
