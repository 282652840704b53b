"""Positions are computed once, and again when their weights or sizes change."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastsam2.build_sam import build_sam2
from fastsam2.modeling.sam2_base import SAM2Base


@pytest.fixture
def model() -> SAM2Base:
    return build_sam2("nano", device="cpu")


def dense(model: SAM2Base) -> Tensor:
    return model.sam_prompt_encoder.get_dense_pe()


def trunk(model: SAM2Base) -> Tensor:
    return model.image_encoder.trunk._get_pos_embed((64, 64))  # type: ignore[union-attr, operator]


def weight(model: SAM2Base, call: Callable[[SAM2Base], Tensor]) -> Tensor:
    if call is dense:
        return model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    return model.image_encoder.trunk.pos_embed_window  # type: ignore[union-attr, return-value]


@pytest.mark.parametrize("call", [dense, trunk])
@torch.no_grad()
def test_computed_once_and_again_when_weights_change(
    model: SAM2Base, call: Callable[[SAM2Base], Tensor]
) -> None:
    first = call(model)
    assert call(model) is first
    weight(model, call).add_(1.0)
    second = call(model)
    assert not torch.equal(second, first)
    assert torch.equal(second, call(copy.deepcopy(model)))
    half = model.half() if call is trunk else model
    assert call(half).dtype == (torch.float16 if call is trunk else torch.float32)


@torch.no_grad()
def test_follows_the_size(model: SAM2Base) -> None:
    before = dense(model)
    model.sam_prompt_encoder.image_embedding_size = (8, 8)
    assert dense(model).shape == (1, model.hidden_dim, 8, 8) != before.shape


def test_gradients_reach_the_weights(model: SAM2Base) -> None:
    with torch.no_grad():
        trunk(model)
    trunk(model).sum().backward()
    assert weight(model, trunk).grad is not None


def test_serves_under_autograd_after_inference(model: SAM2Base) -> None:
    with torch.inference_mode():
        kept = trunk(model)
    assert not kept.is_inference()
