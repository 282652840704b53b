"""Weights multiplied out in advance: exact identities that leave less to do on every frame.

Each function takes modules as they were loaded and returns new tensors; the modules stay the same.
Rows of projections come in half-split order: where RoPE turns the channel pairs (2i, 2i + 1) of the
official order, it turns (i, i + D / 2) of this one, and logits are the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.modeling.backbones.image_encoder import FpnNeck
from fastsam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from fastsam2.modeling.memory_encoder import CXBlock
from fastsam2.modeling.sam.mask_decoder import MaskDecoder

__all__ = [
    "FoldedBlock",
    "FoldedLayer",
    "fold_block",
    "fold_high_res",
    "fold_layer",
    "fold_memory_attention",
    "half_split",
]


def half_split(rows: Tensor) -> Tensor:
    """Rows 0, 2, 4, ... first, then rows 1, 3, 5, ..."""
    return torch.cat([rows[0::2], rows[1::2]])


@dataclass(frozen=True)
class FoldedLayer:
    """One layer of memory attention of width D over memory of width M."""

    layer: MemoryAttentionLayer  #: its norms and MLP are used as they are
    #: self-attention `[3 D, D]`: queries and keys half-split, values by `W_o W_v`
    qkv_weight: Tensor
    qkv_bias: Tensor  #: `W_o b_v + b_o` for values, as attention weights sum to one
    q_weight: Tensor  #: queries of the cross-attention `[D, D]`, half-split
    q_bias: Tensor
    k_weight: Tensor  #: keys of the memory `[D, M]`, half-split
    k_bias: Tensor
    out_weight: Tensor  #: `W_o W_v` `[D, M]`: attention runs over the memory itself
    out_bias: Tensor  #: `W_o b_v + b_o`

    def feed(self, x: Tensor) -> Tensor:
        """Apply the layer's MLP with its residual, `[N, L, D]` to the same."""
        layer, linear = self.layer, self.layer.linear1
        y = layer.norm3(x)
        if x.is_cuda and layer.activation is F.relu:
            # In the epilogue of the product: the hidden map is not read and written once more.
            rows, weight = y.flatten(0, -2), linear.weight.t()
            hidden = torch._addmm_activation(linear.bias, rows, weight).view(*x.shape[:-1], -1)
        else:
            hidden = layer.activation(linear(y))
        return x + layer.linear2(hidden)


def fold_layer(layer: MemoryAttentionLayer) -> FoldedLayer:
    """Merge and reorder the projections of a layer."""
    own, cross = layer.self_attn, layer.cross_attn_image
    return FoldedLayer(
        layer=layer,
        qkv_weight=torch.cat(
            [
                half_split(own.q_proj.weight),
                half_split(own.k_proj.weight),
                own.out_proj.weight @ own.v_proj.weight,
            ]
        ),
        qkv_bias=torch.cat(
            [
                half_split(own.q_proj.bias),
                half_split(own.k_proj.bias),
                own.out_proj.weight @ own.v_proj.bias + own.out_proj.bias,
            ]
        ),
        q_weight=half_split(cross.q_proj.weight),
        q_bias=half_split(cross.q_proj.bias),
        k_weight=half_split(cross.k_proj.weight),
        k_bias=half_split(cross.k_proj.bias),
        out_weight=cross.out_proj.weight @ cross.v_proj.weight,
        out_bias=cross.out_proj.weight @ cross.v_proj.bias + cross.out_proj.bias,
    )


def fold_memory_attention(module: MemoryAttention) -> list[FoldedLayer] | None:
    """Fold all layers; None if the identities do not hold for the module's configuration.

    They need one head, and positions added to the input and to the keys of the memory only, as in
    all official models.
    """
    layers = [cast(MemoryAttentionLayer, layer) for layer in module.layers]
    for layer in layers:
        heads = {layer.self_attn.num_heads, layer.cross_attn_image.num_heads}
        plain = not (layer.pos_enc_at_attn or layer.pos_enc_at_cross_attn_queries)
        if heads != {1} or not plain or not layer.pos_enc_at_cross_attn_keys:
            return None
    return [fold_layer(layer) for layer in layers]


@dataclass(frozen=True)
class FoldedBlock:
    """A CXBlock whose layer scale is folded into its last projection."""

    block: CXBlock  #: its depthwise convolution, norm and first projection are used as they are
    weight: Tensor  #: `gamma * W_2`, `[C, 4 C]`
    bias: Tensor  #: `gamma * b_2`


def fold_block(block: CXBlock) -> FoldedBlock:
    """Fold the layer scale."""
    weight, bias = block.pwconv2.weight, block.pwconv2.bias
    if block.gamma is None:
        return FoldedBlock(block, weight, bias)
    return FoldedBlock(block, block.gamma[:, None] * weight, block.gamma * bias)


def fold_high_res(neck: FpnNeck, decoder: MaskDecoder) -> list[tuple[Tensor, Tensor]] | None:
    """Fold the neck's and the mask decoder's 1x1 convolutions of strides 4 and 8 into one each.

    Returns:
        Weight `[C_out, C_in, 1, 1]` and bias for each stride; None if the pyramid adds a top-down
        term between the two convolutions.
    """
    if not decoder.use_high_res_features or {0, 1} & set(neck.fpn_top_down_levels):
        return None
    folded = []
    for level, outer in enumerate((decoder.conv_s0, decoder.conv_s1)):
        inner = cast(nn.Conv2d, neck.convs[len(neck.convs) - 1 - level].conv)
        if inner.kernel_size != (1, 1):
            return None
        outer_matrix, inner_matrix = outer.weight.flatten(1), inner.weight.flatten(1)
        assert inner.bias is not None
        assert outer.bias is not None
        weight = (outer_matrix @ inner_matrix)[..., None, None]
        folded.append((weight, outer_matrix @ inner.bias + outer.bias))
    return folded
