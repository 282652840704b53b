"""Fast paths run only while the model's code is the package's own, and follow its weights."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastsam2.engine.fused.image_encoder import fused_image_encoder
from fastsam2.engine.plan import Plan
from fastsam2.engine.track_step import track_step
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.predictors.nano import nano_predictor
from tests.reference import randomise_

Change = Callable[[Any], object]


@pytest.fixture
def model() -> SAM2VideoPredictor:
    return nano_predictor()


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class Own(nn.Module):
    """A client's own layer."""


def overridden(name: str) -> Change:
    def change(model: Any) -> None:
        kind = type(model)
        method = {name: lambda self, *args, **kwargs: getattr(kind, name)(self, *args, **kwargs)}
        model.__class__ = type("Sub", (kind,), method)

    return change


STEP: dict[str, Change] = {
    "hook": lambda m: m.memory_attention.register_forward_hook(lambda *_: None),
    "deep hook": lambda m: m.memory_attention.layers[0].self_attn.register_forward_pre_hook(
        lambda *_: None
    ),
    "forward": lambda m: setattr(m.memory_attention.layers[1], "forward", lambda *a, **k: a[0]),
    "wrapped": lambda m: setattr(m, "memory_attention", nn.Sequential(m.memory_attention)),
    "replaced": lambda m: setattr(m.memory_attention.layers[0], "linear1", Own()),
    "train": lambda m: m.memory_attention.train(),
    "compiled": lambda m: m.memory_attention.compile(backend="eager"),
    "encoder hook": lambda m: m.memory_encoder.mask_downsampler.register_forward_hook(
        lambda *_: None
    ),
    "emptied": lambda m: setattr(m.memory_encoder, "pix_feat_proj", nn.Sequential()),
    "layers of torch": lambda m: setattr(
        m.memory_encoder, "out_proj", nn.Sequential(nn.ReLU()).eval()
    ),
    "added": lambda m: setattr(m.memory_encoder.fuser, "proj", nn.ReLU().eval()),
    "deleted": lambda m: delattr(m, "memory_encoder"),
    "prompt encoder hook": lambda m: m.sam_prompt_encoder.register_forward_hook(lambda *_: None),
    "head": lambda m: setattr(m.sam_mask_decoder, "iou_prediction_head", Own()),
    "pointer": lambda m: setattr(m, "obj_ptr_proj", Own()),
    "activation": lambda m: m.sam_mask_decoder.output_upscaling.__setitem__(4, nn.ReLU()),
    "method on the instance": lambda m: setattr(m, "track_step", lambda *a, **k: {}),
    **{
        name: overridden(name)
        for name in (
            "_get_image_feature",
            "_prepare_backbone_features",
            "track_step",
            "_prepare_memory_conditioned_features",
            "_forward_sam_heads",
            "_use_mask_as_output",
            "_encode_new_memory",
        )
    },
}

ENCODER: dict[str, Change] = {
    "hook": lambda m: m.image_encoder.trunk.blocks[0].register_forward_hook(lambda *_: None),
    "neck": lambda m: setattr(m.image_encoder, "neck", Own()),
    "projection": lambda m: setattr(m.sam_mask_decoder, "conv_s0", nn.Identity()),
    "train": lambda m: m.image_encoder.train(),
    "forward_image": overridden("forward_image"),
}


@pytest.mark.parametrize("change", STEP.values(), ids=STEP)
def test_the_models_own_track_step_runs(model: SAM2VideoPredictor, change: Change) -> None:
    assert track_step(model) is not None
    change(model)
    assert track_step(model) is None
    assert fused_image_encoder(model) is not None


@pytest.mark.parametrize("change", ENCODER.values(), ids=ENCODER)
def test_the_models_own_forward_image_runs(model: SAM2VideoPredictor, change: Change) -> None:
    assert fused_image_encoder(model) is not None
    change(model)
    assert fused_image_encoder(model) is None


def test_removed_hook(model: SAM2VideoPredictor) -> None:
    step = track_step(model)
    handle = model.memory_attention.register_forward_hook(lambda *_: None)
    assert track_step(model) is None
    handle.remove()
    assert track_step(model) is step


def test_global_hook(model: SAM2VideoPredictor) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert track_step(model) is None
    handle.remove()
    assert track_step(model) is not None


def test_gradients(model: SAM2VideoPredictor) -> None:
    with torch.enable_grad():
        assert track_step(model) is None
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        assert track_step(model) is not None


def test_subclass_without_overrides(model: SAM2VideoPredictor) -> None:
    model.__class__ = type("Sub", (SAM2VideoPredictor,), {"note": "mine"})
    assert track_step(model) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda m: randomise_(m, seed=1),
        lambda m: m.sam_mask_decoder.output_upscaling[0].weight.mul_(2),
        lambda m: setattr(m, "maskmem_tpos_enc", nn.Parameter(m.maskmem_tpos_enc + 1)),
        lambda m: setattr(m, "sigmoid_bias_for_mem_enc", 3.0),
        lambda m: setattr(m, "plan", Plan(encoder_batch=2)),
    ],
    ids=["all weights", "a weight in place", "a parameter", "an option", "the plan"],
)
def test_rebuilt_after_changes(model: SAM2VideoPredictor, change: Change) -> None:
    step = track_step(model)
    assert track_step(model) is step
    change(model)
    assert track_step(model) is not step


def test_autocast_gets_a_copy_in_its_dtype(model: SAM2VideoPredictor) -> None:
    """The copy has the current options; parts already in that dtype are shared."""
    with torch.autocast("cpu", torch.bfloat16):
        step = track_step(model)
        assert step is not None
        assert step.model.dtype == torch.bfloat16
        assert step.model.memory_attention is not model.memory_attention
        model.binarize_mask_from_pts_for_mem_enc = "maybe"  # type: ignore[assignment]
        assert track_step(model) is step
        assert step.model.binarize_mask_from_pts_for_mem_enc == "maybe"
        half = nano_predictor(dtype=torch.bfloat16)
        own = track_step(half)
        assert own is not None
        assert own.model.memory_attention is half.memory_attention
    assert model.dtype == torch.float32


def test_model_copy_has_its_own_fast_path(model: SAM2VideoPredictor) -> None:
    step = track_step(model)
    other = copy.deepcopy(model)
    assert track_step(other) is not step
    assert track_step(model) is step


def test_model_is_freed_at_once(model: SAM2VideoPredictor) -> None:
    """Weights are too large to wait for the garbage collector."""
    other = copy.deepcopy(model)
    assert track_step(other) is not None
    assert fused_image_encoder(other) is not None
    weight = weakref.ref(other.memory_attention.norm.weight)
    gc.collect()
    gc.disable()
    try:
        del other
        assert weight() is None
    finally:
        gc.enable()
