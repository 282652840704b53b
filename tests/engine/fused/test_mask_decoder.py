"""The batched mask decoder equals the modules, and knows when to step aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.fused.mask_decoder import object_decoder
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.memories import features
from tests.reference import randomise_

SIZE, OBJECTS = 128, 8


@pytest.fixture(params=["sam2.1-tiny", "sam2-tiny", "nano"])
def model(request: pytest.FixtureRequest) -> SAM2VideoPredictor:
    with torch.inference_mode(False):
        predictor = build_sam2_video_predictor(
            request.param, device="cpu", hydra_overrides_extra=[f"++model.image_size={SIZE}"]
        )
        randomise_(predictor)
    return predictor


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_equals_the_modules_in_float64(model: SAM2VideoPredictor) -> None:
    """Objects one at a time, three masks of which the best is chosen afterwards."""
    model.double()
    frame = features(model)
    high_res = [x.double() for x in frame.high_res or []]
    seen = torch.randn(OBJECTS, model.hidden_dim, *frame.pix_feat.shape[-2:]).double()
    # Random weights prefer one mask always: let what they see decide.
    last = model.sam_mask_decoder.iou_prediction_head.layers[-1]
    last.weight.mul_(1e-2)
    last.bias.zero_()
    ious = model.decode_masks(seen, high_res, multimask_output=True).ious.mean(0)
    last.bias[1:] -= ious.logit() if model.iou_prediction_use_sigmoid else ious
    decode = object_decoder(model)
    assert decode is not None
    out = decode(model, seen, model.sam_prompt_encoder.get_dense_pe(), high_res)
    alone = [model.decode_masks(x, high_res, multimask_output=True) for x in seen.split(1)]
    best = torch.cat([x.ious for x in alone]).argmax(1)
    assert len(set(best.tolist())) > 1, "the choice is to matter"
    for name in out._fields:
        expected = torch.cat([getattr(x, name) for x in alone])
        error = (getattr(out, name).double() - expected.double()).abs().max()
        assert error <= 1e-9 * expected.double().abs().max(), name


def test_follows_changed_weights(model: SAM2VideoPredictor) -> None:
    before = object_decoder(model)
    assert object_decoder(model) is before
    with torch.inference_mode(False), torch.no_grad():
        model.sam_mask_decoder.output_upscaling[0].weight.mul_(2)  # type: ignore[union-attr]
    assert object_decoder(model) is not before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.sam_mask_decoder.register_forward_hook(lambda *_: None),
        lambda m: m.sam_prompt_encoder.register_forward_hook(lambda *_: None),
        lambda m: setattr(m.sam_mask_decoder, "iou_prediction_head", _Own()),
        lambda m: setattr(m, "obj_ptr_proj", _Own()),
        lambda m: setattr(m.sam_mask_decoder, "output_upscaling", nn.Sequential().eval()),
        lambda m: m.sam_mask_decoder.output_upscaling.__setitem__(4, nn.ReLU()),
        lambda m: m.sam_mask_decoder.train(),
        lambda m: m.sam_mask_decoder.compile(backend="eager"),
    ],
    ids=["hook", "prompt hook", "head", "pointer", "emptied", "activation", "train", "compiled"],
)
def test_steps_aside(
    model: SAM2VideoPredictor, change: Callable[[SAM2VideoPredictor], object]
) -> None:
    assert object_decoder(model) is not None
    change(model)
    assert object_decoder(model) is None


class _Own(nn.Module):
    """A client's own layer."""
