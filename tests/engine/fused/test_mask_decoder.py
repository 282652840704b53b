"""The batched mask decoder equals the modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastsam2.engine.fused.mask_decoder import DecodedMasks, FusedMaskDecoder
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.memories import features

SIZE, OBJECTS = 128, 8

pytestmark = pytest.mark.usefixtures("inference")


def by_modules(
    model: SAM2VideoPredictor, conditioned: Tensor, high_res: list[Tensor]
) -> DecodedMasks:
    _, _, ious, masks, _, pointers, presence = model._forward_sam_heads(
        conditioned, high_res_features=high_res, multimask_output=True
    )
    return DecodedMasks(masks, ious, pointers, presence)


def test_equals_the_modules_in_float64(model: SAM2VideoPredictor) -> None:
    """The modules decode one object at a time and select the best of three masks afterwards."""
    model.double()
    frame = features(model)
    high_res = [x.double() for x in frame.high_res or []]
    conditioned = torch.randn(OBJECTS, model.hidden_dim, *frame.pix_feat.shape[-2:]).double()
    # Random weights always prefer the same mask: make the choice depend on the features.
    last = model.sam_mask_decoder.iou_prediction_head.layers[-1]
    last.weight.mul_(1e-2)
    last.bias.zero_()
    ious = by_modules(model, conditioned, high_res).ious.mean(0)
    last.bias[1:] -= ious.logit() if model.iou_prediction_use_sigmoid else ious
    decode = FusedMaskDecoder.of(model)
    assert decode is not None
    out = decode(conditioned, decode.image_offsets(), high_res)
    alone = [by_modules(model, x, high_res) for x in conditioned.split(1)]
    best = torch.cat([x.ious for x in alone]).argmax(1)
    assert len(set(best.tolist())) > 1, "the choice is to matter"
    for name in out._fields:
        expected = torch.cat([getattr(x, name) for x in alone])
        error = (getattr(out, name).double() - expected.double()).abs().max()
        assert error <= 1e-9 * expected.double().abs().max(), name


def test_unusual_configuration(model: SAM2VideoPredictor) -> None:
    model.multimask_output_for_tracking = False
    assert FusedMaskDecoder.of(model) is None
    model.multimask_output_for_tracking = True
    decoder = model.sam_mask_decoder
    for owner, name in (
        (decoder.output_upscaling, "4"),
        (decoder, "pred_obj_score_head"),
        (decoder.transformer.layers[1].mlp, "act"),
        (decoder.iou_prediction_head, "act"),
    ):
        before = owner._modules[name]
        owner._modules[name] = nn.Sigmoid()
        assert FusedMaskDecoder.of(model) is None, name
        owner._modules[name] = before
    assert FusedMaskDecoder.of(model) is not None
