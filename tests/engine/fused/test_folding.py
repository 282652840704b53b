"""Folded weights give the results of the modules, in float64 to 1e-9; each identity separately."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.fused.folding import (
    fold_block,
    fold_high_res,
    fold_layer,
    fold_memory_attention,
    half_split,
)
from fastsam2.modeling.position_encoding import apply_rope
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.pretend_cuda import PretendedCuda
from tests.reference import randomise_

GRID = 16


@pytest.fixture(scope="module", params=["sam2.1-tiny", "nano"])
def model(request: pytest.FixtureRequest) -> SAM2VideoPredictor:
    predictor = build_sam2_video_predictor(
        request.param, device="cpu", hydra_overrides_extra=["++model.image_size=256"]
    )
    randomise_(predictor)
    return predictor.double()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.dtype == torch.float64
    assert (a - b).abs().max() <= 1e-9 * b.abs().max()


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE in half-split order."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@torch.inference_mode()
def test_half_split_rotates_the_same_pairs(model: SAM2VideoPredictor) -> None:
    attention = model.memory_attention.layers[0].self_attn
    cos, sin = (t.double() for t in attention.rope_table(GRID**2, torch.device("cpu")))
    x = torch.randn(GRID**2, model.hidden_dim, dtype=torch.float64)
    close(turn(half_split(x.T).T, cos, sin), half_split(apply_rope(x, cos, sin).T).T)


def test_relu_on_cuda(model: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One operation multiplies and applies ReLU, with the same result."""
    folded = fold_layer(model.memory_attention.layers[0])
    x = torch.randn(2, GRID**2, model.hidden_dim, dtype=torch.float64)
    with torch.inference_mode():
        expected = folded.feed(x)
    with PretendedCuda().installed(monkeypatch) as gpu, torch.no_grad():
        copied = copy.deepcopy(model)
        gpu.move(copied)
        on_gpu = x.to("cuda")
        gpu.take()
        out = fold_layer(copied.memory_attention.layers[0]).feed(on_gpu)
        close(out.cpu(), expected)
        launches = [event.name for event in gpu.take() if event.kind == "launch"]
    assert "_addmm_activation" in launches
    assert "relu" not in launches


@torch.inference_mode()
def test_self_attention(model: SAM2VideoPredictor) -> None:
    layer = model.memory_attention.layers[0]
    folded = fold_layer(layer)
    x = torch.randn(1, GRID**2, model.hidden_dim, dtype=torch.float64)
    cos, sin = layer.self_attn.rope_table(GRID**2, x.device)
    q, k, v = F.linear(x, folded.qkv_weight, folded.qkv_bias).chunk(3, dim=-1)
    out = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v)
    close(out, layer.self_attn(x, x, x))


@torch.inference_mode()
def test_cross_attention_over_the_memory_itself(model: SAM2VideoPredictor) -> None:
    layer = model.memory_attention.layers[1]
    folded = fold_layer(layer)
    pointers = 6
    x = torch.randn(1, GRID**2, model.hidden_dim, dtype=torch.float64)
    memory = torch.randn(1, 2 * GRID**2 + pointers, model.mem_dim, dtype=torch.float64)
    pos = torch.randn_like(memory)
    cos, sin = layer.cross_attn_image.rope_table(GRID**2, x.device)
    q = turn(F.linear(x, folded.q_weight, folded.q_bias), cos, sin)
    k = F.linear(memory + pos, folded.k_weight, folded.k_bias)
    placed = turn(k[:, :-pointers], cos.repeat(2, 1), sin.repeat(2, 1))
    k = torch.cat([placed, k[:, -pointers:]], dim=1)
    read = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ memory
    close(
        F.linear(read, folded.out_weight, folded.out_bias),
        layer.cross_attn_image(x, memory + pos, memory, pointers),
    )


@torch.inference_mode()
def test_layer_scale(model: SAM2VideoPredictor) -> None:
    block = model.memory_encoder.fuser.layers[0]
    folded = fold_block(block)
    assert block.gamma is not None
    x = torch.randn(1, model.hidden_dim, GRID, GRID, dtype=torch.float64)
    y = block.norm(block.dwconv(x)).permute(0, 2, 3, 1)
    y = F.linear(block.act(block.pwconv1(y)), folded.weight, folded.bias)
    close(x + y.permute(0, 3, 1, 2), block(x))


@torch.inference_mode()
def test_neck(model: SAM2VideoPredictor) -> None:
    neck = model.image_encoder.neck
    folded = fold_high_res(neck, model.sam_mask_decoder)
    assert folded is not None
    maps = [
        torch.randn(1, dim, 64 >> i, 64 >> i, dtype=torch.float64)
        for i, dim in enumerate(reversed(neck.backbone_channel_list))
    ]
    features, _ = neck(maps)
    for level, outer in enumerate((model.sam_mask_decoder.conv_s0, model.sam_mask_decoder.conv_s1)):
        close(F.conv2d(maps[level], *folded[level]), outer(features[level]))


def test_unsupported_modules_are_not_folded(model: SAM2VideoPredictor) -> None:
    assert fold_memory_attention(model.memory_attention) is not None
    layer = model.memory_attention.layers[0]
    layer.pos_enc_at_attn = True
    assert fold_memory_attention(model.memory_attention) is None
    layer.pos_enc_at_attn = False
    neck = model.image_encoder.neck
    neck.fpn_top_down_levels.append(1)
    assert fold_high_res(neck, model.sam_mask_decoder) is None
    neck.fpn_top_down_levels.remove(1)
