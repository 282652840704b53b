"""The fused image encoder returns the features of `forward_image`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsam2.build_sam import build_sam2
from fastsam2.engine.fused.image_encoder import fused_image_encoder
from fastsam2.modeling.sam2_base import SAM2Base
from tests.reference import randomise_
from tests.support import relative_error

SIZE = 128


@pytest.fixture(params=["sam2.1-tiny", "sam2-large", "nano"])
def model(request: pytest.FixtureRequest) -> SAM2Base:
    with torch.inference_mode(False):
        model = build_sam2(
            request.param, device="cpu", hydra_overrides_extra=[f"++model.image_size={SIZE}"]
        )
        randomise_(model)
    return model


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def encode_image(model: SAM2Base, images: Tensor) -> dict[str, Any]:
    """Encode as predictors do."""
    return (fused_image_encoder(model) or model.forward_image)(images)


def tensors(out: dict[str, Any]) -> list[Tensor]:
    return [out["vision_features"], *out["backbone_fpn"], *out["vision_pos_enc"]]


@pytest.mark.slow
def test_equals_the_module(model: SAM2Base) -> None:
    images = torch.randn(2, 3, SIZE, SIZE)
    assert fused_image_encoder(model) is not None
    out, expected = encode_image(model, images), model.forward_image(images)
    assert out.keys() == expected.keys()
    for a, b in zip(tensors(out), tensors(expected), strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a, b) <= 1e-5


@pytest.mark.slow
def test_largest_maps_are_not_computed(model: SAM2Base, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    convolve = torch.nn.functional.conv2d

    def spy(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = convolve(x, weight, *args, **kwargs)
        seen.append(tuple(out.shape))
        return out

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    encode_image(model, torch.randn(1, 3, SIZE, SIZE))
    side = SIZE // 4
    assert (1, model.hidden_dim // 8, side, side) in seen
    assert (1, model.hidden_dim, side, side) not in seen


@pytest.mark.slow
def test_client_hook_is_called(model: SAM2Base) -> None:
    """A hook on a lateral convolution that the fast path folds receives its map."""
    images, seen = torch.randn(1, 3, SIZE, SIZE), []
    lateral = model.image_encoder.neck.convs[-1]  # type: ignore[union-attr, index]
    handle = lateral.register_forward_hook(lambda *_: seen.append(1))
    encode_image(model, images)
    handle.remove()
    encode_image(model, images)
    assert len(seen) == 1
    model.sam_mask_decoder.conv_s0 = _Zero()
    assert not encode_image(model, images)["backbone_fpn"][0].any()


@pytest.mark.slow
def test_overridden_forward_image_is_called(model: SAM2Base) -> None:
    """Overridden in a subclass, or set on the model itself."""
    images = torch.randn(1, 3, SIZE, SIZE)
    model.forward_image = lambda x: {"seen": x}  # type: ignore[method-assign]
    assert encode_image(model, images)["seen"] is images


class _Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, : x.shape[1] // 8])


@pytest.mark.slow
def test_follows_changed_weights(model: SAM2Base) -> None:
    images = torch.randn(1, 3, SIZE, SIZE)
    before = encode_image(model, images)["backbone_fpn"][0]
    with torch.inference_mode(False), torch.no_grad():
        model.sam_mask_decoder.conv_s0.weight.mul_(2)
    after = encode_image(model, images)["backbone_fpn"][0]
    assert relative_error(after, before) > 0.1
    assert relative_error(after, model.forward_image(images)["backbone_fpn"][0]) <= 1e-5
