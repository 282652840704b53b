"""Prompt encoder: embeds points, boxes and masks as tokens and a dense map (arXiv 2304.02643)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from fastsam2.modeling.cached_tensor import CachedTensor
from fastsam2.modeling.position_encoding import PositionEmbeddingRandom
from fastsam2.modeling.sam2_utils import LayerNorm2d

__all__ = ["PromptEncoder"]


class PromptEncoder(nn.Module):
    """Embeds prompts for the mask decoder.

    Args:
        embed_dim: width of the tokens.
        image_embedding_size: (H, W) of the image embedding.
        input_image_size: (H, W) of the model's input; prompts are in its pixels.
        mask_in_chans: channels between the two strided convolutions of a mask prompt.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.input_image_size = input_image_size
        self.image_embedding_size = image_embedding_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self._dense_pe: CachedTensor[Tensor] = CachedTensor()
        self.num_point_embeddings = 4
        # One for each label: 0 negative point, 1 positive point, 2 top left, 3 bottom right.
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """Return the positions of the image embedding, `[1, embed_dim, H, W]`, in the weights'
        dtype."""
        size, dtype = self.image_embedding_size, self.no_mask_embed.weight.dtype
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        return self._dense_pe(
            (size, dtype), [matrix], lambda: self.pe_layer(size).unsqueeze(0).to(dtype)
        )

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        points = points + 0.5  # pixel centres
        if pad:
            points = torch.cat([points, points.new_zeros(points.shape[0], 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((labels.shape[0], 1), -1)], dim=1)
        place = self.pe_layer.forward_with_coords(points, self.input_image_size)
        labels = labels.unsqueeze(-1)
        out = torch.where(labels == -1, self.not_a_point_embed.weight, place)
        for label, embedding in enumerate(self._label_embeddings()):
            out = torch.where(labels == label, out + embedding, out)
        return out

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = (boxes + 0.5).reshape(-1, 2, 2)
        place = self.pe_layer.forward_with_coords(corners, self.input_image_size)
        return place + torch.cat(self._label_embeddings()[2:])

    def _label_embeddings(self) -> list[Tensor]:
        """Return the embedding `[1, embed_dim]` of each label."""
        return [cast(nn.Embedding, e).weight for e in self.point_embeddings]

    def _embed_masks(self, masks: Tensor) -> Tensor:
        return self.mask_downscaling(masks.to(self.no_mask_embed.weight.dtype))

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Embed any combination of prompts.

        Args:
            points: (x, y) in pixels of the input `[B, N, 2]` and labels `[B, N]`: 1 positive, 0
                negative, 2 and 3 box corners, -1 padding.
            boxes: (x0, y0, x1, y1) `[B, 4]`.
            masks: mask logits `[B, 1, *mask_input_size]`.

        Returns:
            Tokens `[B, T, embed_dim]` and a dense map `[B, embed_dim, H, W]`.
        """
        weight = self.no_mask_embed.weight
        given = [p for p in (points[0] if points else None, boxes, masks) if p is not None]
        batch = given[0].shape[0] if given else 1
        tokens = [weight.new_zeros(batch, 0, self.embed_dim)]
        if points is not None:
            tokens.append(self._embed_points(*points, pad=boxes is None).to(weight.dtype))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes).to(weight.dtype))
        if masks is not None:
            dense = self._embed_masks(masks)
        else:
            dense = weight.reshape(1, -1, 1, 1).expand(batch, -1, *self.image_embedding_size)
        return torch.cat(tokens, dim=1), dense
