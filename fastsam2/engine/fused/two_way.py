"""The mask decoder's two-way transformer for inference, with prompt tokens that are constants.

Projections of one input are one product, and positions are projected in advance: `(x + p) W + b` is
`x W + (p W + b)`.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.engine.fused.linear_relu import mlp
from fastsam2.modeling.cached_tensor import CachedTensor
from fastsam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

__all__ = ["FusedTwoWayTransformer"]


class _Projections:
    """Linear layers of one input, computed as one product.

    Args:
        placed: layers whose input has positions added.
        plain: layers of the same input without positions.
    """

    def __init__(self, placed: list[nn.Linear], plain: list[nn.Linear]) -> None:
        layers = [*placed, *plain]
        self._widths = [layer.out_features for layer in layers]
        self._weight = torch.cat([layer.weight for layer in layers])
        self._bias = torch.cat([layer.bias for layer in layers])
        self._placed = sum(layer.out_features for layer in placed)

    def offsets(self, positions: Tensor) -> Tensor:
        """Return the part of the output that does not depend on the input.

        Args:
            positions: `[L, C]`.
        """
        placed = positions @ self._weight[: self._placed].T
        return self._bias + F.pad(placed, (0, len(self._bias) - self._placed))

    def __call__(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each layer for `x` `[N, L, C]`."""
        return (F.linear(x, self._weight) + offsets).split(self._widths, dim=-1)


class _Layer:
    """A two-way block after its self-attention; also projects tokens for the next attention.

    Args:
        tokens: prompt and output tokens, the positions of the tokens, `[T, C]`.
        following: projections of the next attention that takes tokens: queries and keys, whose
            input has positions added, and values.
    """

    def __init__(
        self,
        block: TwoWayAttentionBlock,
        tokens: Tensor,
        following: tuple[list[nn.Linear], list[nn.Linear]],
    ) -> None:
        read, write = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        self.block = block
        self.image = _Projections([read.k_proj, write.q_proj], [read.v_proj])
        placed, plain = following
        self._before = len(placed)
        self._after = _Projections([*placed, write.k_proj], [write.v_proj, *plain])
        self._after_offsets = self._after.offsets(tokens)
        self._reader = _Projections([read.q_proj], [])
        self._reader_offsets = self._reader.offsets(tokens)

    def reader(self, tokens: Tensor) -> Tensor:
        """Return the queries of tokens `[N, T, C]` to the image."""
        return self._reader(tokens, self._reader_offsets)[0]

    def __call__(
        self, tokens: Tensor, reader: Tensor, image: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Update tokens and image by attention to each other.

        Args:
            reader: queries of the tokens.
            offsets: of the projections of the image.

        Returns:
            Tokens, image, and the projections that follow.
        """
        block = self.block
        key, writer, value = self.image(image, offsets)
        read = _attend(block.cross_attn_token_to_image, reader, key, value)
        tokens = block.norm2(tokens + read)
        tokens = block.norm3(tokens + mlp(tokens, block.mlp.layers))
        out = self._after(tokens, self._after_offsets)
        key, value = out[self._before : self._before + 2]
        written = _attend(block.cross_attn_image_to_token, writer, key, value)
        following = (*out[: self._before], *out[self._before + 2 :])
        return tokens, block.norm4(image + written), following


class FusedTwoWayTransformer:
    """Two-way transformer of N images with the same prompt tokens: a pure function of tensors.

    Before the first attention to the image, tokens and their queries are constants.

    Args:
        transformer: the module whose weights it uses.
        tokens: prompt and output tokens `[T, C]`.
    """

    def __init__(self, transformer: TwoWayTransformer, tokens: Tensor) -> None:
        blocks = [cast(TwoWayAttentionBlock, block) for block in transformer.layers]
        first, final = blocks[0], transformer.final_attn_token_to_image
        own = [block.self_attn for block in blocks[1:]]
        following: list[tuple[list[nn.Linear], list[nn.Linear]]] = [
            *(([a.q_proj, a.k_proj], [a.v_proj]) for a in own),
            ([final.q_proj], []),
        ]
        self._layers = [
            _Layer(block, tokens, after) for block, after in zip(blocks, following, strict=True)
        ]
        self._tokens = first.norm1(first.self_attn(*[tokens[None]] * 3))
        self._queries = self._layers[0].reader(self._tokens)
        self._final = final
        self._norm = transformer.norm_final_attn
        self._image = _Projections([final.k_proj], [final.v_proj])
        self._offsets: CachedTensor[tuple[Tensor, ...]] = CachedTensor()

    @classmethod
    def of(cls, transformer: nn.Module, tokens: Tensor) -> FusedTwoWayTransformer | None:
        """Stack the weights of `transformer`; None if its configuration excludes that."""
        if not isinstance(transformer, TwoWayTransformer) or not transformer.layers:
            return None
        blocks = [cast(TwoWayAttentionBlock, block) for block in transformer.layers]
        if any(type(block.mlp.act) is not nn.ReLU or block.mlp.sigmoid_output for block in blocks):
            return None
        if [block.skip_first_layer_pe for block in blocks] != [True] + [False] * (len(blocks) - 1):
            return None
        return cls(transformer, tokens)

    def image_offsets(self, image_pe: Tensor) -> tuple[Tensor, ...]:
        """Return the projected positions of the image, constants of a model.

        Args:
            image_pe: `[1, C, H, W]`.
        """
        parts = [*(layer.image for layer in self._layers), self._image]

        def compute() -> tuple[Tensor, ...]:
            positions = image_pe[0].flatten(1).T
            return tuple(part.offsets(positions) for part in parts)

        return self._offsets(image_pe.shape, [image_pe], compute)

    def __call__(self, image: Tensor, offsets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Update the constant tokens and the image by attention to each other.

        Args:
            image: `[N, H * W, C]`.
            offsets: see `image_offsets`.

        Returns:
            Tokens `[N, T, C]` and image `[N, H * W, C]`.
        """
        batch = image.shape[0]
        tokens, reader = (x.expand(batch, -1, -1) for x in (self._tokens, self._queries))
        following: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self._layers):
            if i > 0:
                own = _attend(layer.block.self_attn, *following)
                tokens = layer.block.norm1(tokens + own)
                reader = layer.reader(tokens)
            tokens, image, following = layer(tokens, reader, image, offsets[i])
        (reader,) = following
        attended = _attend(self._final, reader, *self._image(image, offsets[-1]))
        return self._norm(tokens + attended), image


def _attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of projected queries to projected keys and values."""
    return attention._attend(*(attention._separate_heads(x) for x in (q, k, v)))
