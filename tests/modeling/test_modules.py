"""Every part of the model against the same part of `sam2`, all eight configurations, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsam2.config import CONFIGS
from fastsam2.modeling.backbones.hieradet import Hiera
from tests.support import Pair, relative_error

TOLERANCE = 1e-4
GRID = 16  # side of the image embedding at 256 px


def tensors(value: Any) -> list[Tensor]:
    """Return all tensors in nested outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (list, tuple)) else []


def assert_same(pair: Pair, call: Callable[[nn.Module], Any]) -> None:
    with torch.inference_mode():
        ref, ours = tensors(call(pair.ref)), tensors(call(pair.ours))
    assert len(ref) == len(ours) > 0
    for a, b in zip(ref, ours, strict=True):
        assert relative_error(b, a) <= TOLERANCE


def image_embedding(pair: Pair, batch: int = 2) -> Tensor:
    return torch.randn(batch, pair.ours.hidden_dim, GRID, GRID)


def high_res(pair: Pair, batch: int = 2) -> list[Tensor]:
    dim = pair.ours.hidden_dim
    return [
        torch.randn(batch, dim // 8, 4 * GRID, 4 * GRID),
        torch.randn(batch, dim // 4, 2 * GRID, 2 * GRID),
    ]


def decoder_inputs(pair: Pair) -> dict[str, Any]:
    embedding = image_embedding(pair)
    return {
        "image_embeddings": embedding,
        "image_pe": torch.randn(1, *embedding.shape[1:]),
        "sparse_prompt_embeddings": torch.randn(2, 3, embedding.shape[1]),
        "dense_prompt_embeddings": torch.randn_like(embedding),
        "repeat_image": False,
        "high_res_features": high_res(pair),
    }


def memory_inputs(pair: Pair, pointers: int) -> dict[str, Any]:
    cells, dim, width = GRID**2, pair.ours.hidden_dim, pair.ours.mem_dim
    tokens = 3 * cells + pointers
    return {
        "curr": [torch.randn(cells, 2, dim)],
        "curr_pos": [torch.randn(cells, 2, dim)],
        "memory": torch.randn(tokens, 2, width),
        "memory_pos": torch.randn(tokens, 2, width),
        "num_obj_ptr_tokens": pointers,
    }


@pytest.mark.slow
def test_state_dict_has_the_official_names_and_shapes(pair: Pair) -> None:
    ref = {k: v.shape for k, v in pair.ref.state_dict().items()}
    ours = {k: v.shape for k, v in pair.ours.state_dict().items()}
    assert ours == ref


@pytest.mark.slow
def test_trunk(pair: Pair) -> None:
    images = torch.randn(2, 3, 256, 256)
    assert_same(pair, lambda m: m.image_encoder.trunk(images))


def test_neck(pair: Pair) -> None:
    maps = [
        torch.randn(2, dim, 64 >> i, 64 >> i)
        for i, dim in enumerate(reversed(pair.ours.image_encoder.neck.backbone_channel_list))
    ]
    assert_same(pair, lambda m: m.image_encoder.neck(maps))


@pytest.mark.slow
def test_forward_image_and_prepared_features(pair: Pair) -> None:
    images = torch.randn(1, 3, 256, 256)
    assert_same(pair, lambda m: m.forward_image(images))
    assert_same(pair, lambda m: m._prepare_backbone_features(m.forward_image(images))[1:])


@pytest.mark.parametrize("kind", ["points", "boxes", "points and boxes", "mask", "nothing"])
def test_prompt_encoder(pair: Pair, kind: str) -> None:
    labels = torch.tensor([[1, 0, -1], [2, 3, 1]], dtype=torch.int32)
    prompts = {
        "points": (torch.rand(2, 3, 2) * 256, labels) if "points" in kind else None,
        "boxes": torch.rand(2, 4) * 256 if "boxes" in kind else None,
        "masks": torch.randn(2, 1, 64, 64) if kind == "mask" else None,
    }
    assert_same(pair, lambda m: m.sam_prompt_encoder(**prompts))
    assert_same(pair, lambda m: m.sam_prompt_encoder.get_dense_pe())


@pytest.mark.parametrize("multimask_output", [True, False])
def test_mask_decoder(pair: Pair, multimask_output: bool) -> None:
    inputs = decoder_inputs(pair)
    assert_same(pair, lambda m: m.sam_mask_decoder(**inputs, multimask_output=multimask_output))


def test_mask_decoder_repeats_one_image(pair: Pair) -> None:
    inputs = decoder_inputs(pair) | {"repeat_image": True}
    inputs["image_embeddings"] = inputs["image_embeddings"][:1]
    assert_same(pair, lambda m: m.sam_mask_decoder.predict_masks(**inputs))


def test_unstable_masks_are_replaced_by_the_best_of_three(pair: Pair) -> None:
    """Logits near zero are unstable, logits far from it are not: one row of each."""
    logits = torch.randn(2, 4, 32, 32)
    logits[1] *= 100
    ious = torch.rand(2, 4)
    decoder = pair.ours.sam_mask_decoder
    masks, _ = decoder._dynamic_multimask_via_stability(logits, ious)
    assert not torch.equal(masks[0, 0], logits[0, 0])
    assert torch.equal(masks[1, 0], logits[1, 0])
    assert_same(pair, lambda m: m.sam_mask_decoder._dynamic_multimask_via_stability(logits, ious))


@pytest.mark.parametrize("pointers", [0, 8])
def test_memory_attention(pair: Pair, pointers: int) -> None:
    inputs = memory_inputs(pair, pointers)
    assert_same(pair, lambda m: m.memory_attention(**inputs))


def test_memory_encoder(pair: Pair) -> None:
    features, masks = image_embedding(pair), torch.randn(2, 1, 256, 256) * 5
    assert_same(pair, lambda m: m.memory_encoder.mask_downsampler(masks))
    assert_same(pair, lambda m: m.memory_encoder.fuser(features))
    assert_same(pair, lambda m: m.memory_encoder(features, masks))
    assert_same(pair, lambda m: m.memory_encoder(features, masks, skip_mask_sigmoid=True))


@pytest.mark.parametrize("from_points", [True, False])
def test_memory_of_present_and_absent_objects(pair: Pair, from_points: bool) -> None:
    features, masks = image_embedding(pair), torch.randn(2, 1, 256, 256) * 5
    presence = torch.tensor([[3.0], [-3.0]])
    flat = [features.flatten(2).permute(2, 0, 1)]
    with torch.inference_mode():
        ref = pair.ref._encode_new_memory(flat, [(GRID, GRID)], masks, presence, from_points)
        ours = pair.ours._encode_new_memory(flat, [(GRID, GRID)], masks, presence, from_points)
    for a, b in zip(tensors(ref), tensors(ours), strict=True):
        assert relative_error(b, a) <= TOLERANCE


@pytest.mark.parametrize("prompt", ["points", "mask", "nothing"])
@pytest.mark.parametrize("multimask_output", [True, False])
def test_heads(pair: Pair, prompt: str, multimask_output: bool) -> None:
    """Prompt encoder, decoder, choice of mask, pointer, presence."""
    features, levels = image_embedding(pair), high_res(pair)
    coords, labels = torch.rand(2, 1, 2) * 256, torch.ones(2, 1, dtype=torch.int32)
    points = prompt == "points"
    mask = torch.randn(2, 1, 256, 256) if prompt == "mask" else None
    with torch.inference_mode():
        ref, ours = (
            model._forward_sam_heads(
                backbone_features=features,
                point_inputs={"point_coords": coords, "point_labels": labels} if points else None,
                mask_inputs=mask,
                high_res_features=levels,
                multimask_output=multimask_output,
            )
            for model in (pair.ref, pair.ours)
        )
    for a, b in zip(ref, ours, strict=True):
        assert relative_error(b, a) <= TOLERANCE


def test_mask_prompt_is_the_output(pair: Pair) -> None:
    """The second mask is empty: that object is absent."""
    features, levels = image_embedding(pair), high_res(pair)
    mask = torch.zeros(2, 1, 256, 256)
    mask[0, 0, 60:140, 50:170] = 1
    with torch.inference_mode():
        ref = pair.ref._use_mask_as_output(features, levels, mask)
        ours = pair.ours._use_mask_as_output(features, levels, mask)
    for a, b in zip(ref, ours, strict=True):
        assert relative_error(b, a) <= TOLERANCE


def gradient_case(pair: Pair, part: str) -> Callable[[nn.Module], Any]:
    """Return a call of that part of the model on random inputs."""
    if part == "image_encoder":
        images = torch.randn(1, 3, 256, 256)
        return lambda m: m(images)["backbone_fpn"]
    if part == "sam_mask_decoder":
        inputs = decoder_inputs(pair)
        return lambda m: m.predict_masks(**inputs)
    if part == "memory_attention":
        # In float32 rounding can change the sign of a ReLU input near zero, and so its gradient.
        with_doubles = {k: _double(x) for k, x in memory_inputs(pair, 8).items()}
        return lambda m: m.double()(**with_doubles)
    features, masks = image_embedding(pair), torch.randn(2, 1, 256, 256)
    return lambda m: m(features, masks)["vision_features"]


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [x.double() for x in value]
    return value.double() if isinstance(value, Tensor) else value


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["image_encoder", "sam_mask_decoder", "memory_attention", "memory_encoder"]
)
def test_gradients(tiny_pair: Pair, part: str) -> None:
    """Gradients agree, and none is zero, so that every weight takes part in the comparison."""
    call = gradient_case(tiny_pair, part)
    grads = []
    for model in (tiny_pair.ref, tiny_pair.ours):
        module = getattr(model, part)
        outputs = tensors(call(module))
        weighted = [
            (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum() for out in outputs
        ]
        torch.stack(weighted).sum().backward()
        grads.append({k: p.grad for k, p in module.named_parameters()})
        module.zero_grad()
        module.float()
    ref, ours = grads
    # conv_s0 and conv_s1 act before the decoder is called; only part of the pyramid is used.
    idle = {k for k, g in ref.items() if g is None}
    assert idle <= {f"conv_s{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")} | {
        f"neck.convs.0.conv.{kind}" for kind in ("weight", "bias")
    }
    for name, gradient in ref.items():
        if name not in idle:
            assert gradient.abs().max() > 0, name
            # A key's bias shifts all logits alike: its gradient is rounding noise.
            if not name.endswith("k_proj.bias"):
                assert relative_error(ours[name], gradient) <= 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
@pytest.mark.parametrize("strip", [1, 100, 700])
def test_trunk_in_strips(size: str, strip: int) -> None:
    """Windows at the bottom and right are padded, and the last strip is shorter."""
    trunks = [CONFIGS[f"{release}-{size}"].image_encoder.trunk for release in ("sam2", "sam2.1")]
    assert trunks[0] == trunks[1]
    trunk = Hiera(**vars(trunks[0])).double().eval()
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.05)
    images = torch.randn(1, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        whole, strips = trunk(images), trunk(images, strip=strip)
    for a, b in zip(whole, strips, strict=True):
        assert relative_error(b, a) <= 1e-12
