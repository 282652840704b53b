"""The batched memory encoder equals the module, and knows when to step aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.fused.memory_encoder import memory_writer
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.memories import features
from tests.reference import randomise_

SIZE = 128


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


def by_writer(
    model: SAM2VideoPredictor, pix_feat: Tensor, masks: Tensor, presence: Tensor, prompted: bool
) -> Tensor:
    write = memory_writer(model)
    assert write is not None
    return write(
        pix_feat,
        masks,
        presence,
        scale=model.sigmoid_scale_for_mem_enc,
        bias=model.sigmoid_bias_for_mem_enc,
        binarize=prompted and model.binarize_mask_from_pts_for_mem_enc,
    )


def by_module(
    model: SAM2VideoPredictor, pix_feat: Tensor, masks: Tensor, presence: Tensor, prompted: bool
) -> Tensor:
    """One object at a time."""
    found = [
        model.encode_memory(pix_feat, model.upsample_masks(m), p, is_mask_from_pts=prompted)[0]
        for m, p in zip(masks.split(1), presence.split(1), strict=True)
    ]
    return torch.cat(found)


def inputs(model: SAM2VideoPredictor) -> tuple[Tensor, Tensor, Tensor]:
    """A frame and masks of three objects, the second of which is absent."""
    masks = 4 * torch.randn(3, 1, SIZE // 4, SIZE // 4)
    masks[1] = -1024.0
    return features(model).pix_feat, masks, torch.tensor([[3.0], [-2.0], [0.5]])


@pytest.mark.parametrize("prompted", [False, True])
def test_equals_the_module_in_float64(model: SAM2VideoPredictor, prompted: bool) -> None:
    model.double()
    arguments = [x.double() for x in inputs(model)]
    out = by_writer(model, *arguments, prompted)  # type: ignore[call-arg, arg-type]
    expected = by_module(model, *arguments, prompted)  # type: ignore[call-arg, arg-type]
    assert (out - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_follows_changed_weights(model: SAM2VideoPredictor) -> None:
    arguments = inputs(model)
    before = memory_writer(model)
    assert memory_writer(model) is before
    with torch.inference_mode(False), torch.no_grad():
        if model.no_obj_embed_spatial is not None:
            model.no_obj_embed_spatial = nn.Parameter(model.no_obj_embed_spatial + 1)
        model.memory_encoder.fuser.layers[1].gamma.mul_(2)  # type: ignore[union-attr, operator]
    out, expected = (f(model, *arguments, False) for f in (by_writer, by_module))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.memory_encoder.register_forward_hook(lambda *_: None),
        lambda m: m.memory_encoder.mask_downsampler.register_forward_pre_hook(lambda *_: None),
        lambda m: setattr(m.memory_encoder, "pix_feat_proj", nn.Sequential()),
        lambda m: setattr(m.memory_encoder, "out_proj", _Own()),
        lambda m: setattr(m.memory_encoder, "out_proj", nn.Sequential(nn.ReLU()).eval()),
        lambda m: setattr(m.memory_encoder.fuser, "proj", nn.ReLU().eval()),
        lambda m: delattr(m, "memory_encoder"),
        lambda m: setattr(m, "memory_encoder", nn.Sequential(m.memory_encoder)),
        lambda m: m.memory_encoder.train(),
        lambda m: m.memory_encoder.compile(backend="eager"),
    ],
    ids=[
        "hook",
        "pre-hook",
        "emptied",
        "replaced",
        "layers of torch",
        "added",
        "deleted",
        "wrapped",
        "train",
        "compiled",
    ],
)
def test_steps_aside(
    model: SAM2VideoPredictor, change: Callable[[SAM2VideoPredictor], object]
) -> None:
    assert memory_writer(model) is not None
    change(model)
    assert memory_writer(model) is None


class _Own(nn.Module):
    """A client's own layer."""


def test_only_depthwise_blocks_of_known_width(model: SAM2VideoPredictor) -> None:
    """A full convolution has as many weights as to be mistaken for a depthwise one."""
    block = model.memory_encoder.fuser.layers[0]
    width = model.hidden_dim
    block.dwconv = nn.Conv2d(width, width, 7, padding=3).eval()  # type: ignore[union-attr]
    assert memory_writer(model) is None
