"""Hiera, the hierarchical image backbone (arXiv 2306.00989, positions of arXiv 2311.05613)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.modeling.backbones.utils import PatchEmbed, window_partition, window_unpartition
from fastsam2.modeling.cached_tensor import CachedTensor
from fastsam2.modeling.sam2_utils import MLP, DropPath

__all__ = ["Hiera", "MultiScaleAttention", "MultiScaleBlock", "do_pool"]


def do_pool(x: Tensor, pool: nn.Module | None, norm: nn.Module | None = None) -> Tensor:
    """Pool a channels-last map `[B, H, W, C]`, then normalise it if a norm is given."""
    if pool is None:
        return x
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return norm(x) if norm is not None else x


class MultiScaleAttention(nn.Module):
    """Self-attention of a map, with optional pooling of the queries to a smaller map."""

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, q_pool: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.num_heads = num_heads
        self.q_pool = q_pool
        self.qkv = nn.Linear(dim, dim_out * 3)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, dim]` to `[B, H', W', dim_out]`."""
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.unbind(2)
        if self.q_pool is not None:
            q = do_pool(q.reshape(batch, height, width, -1), self.q_pool)
            height, width = q.shape[1:3]
            q = q.reshape(batch, height * width, self.num_heads, -1)
        x = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, -1))


class MultiScaleBlock(nn.Module):
    """A transformer block over windows; the first of a stage also widens and pools."""

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        q_stride: tuple[int, ...] | None = None,
        act_layer: type[nn.Module] = nn.GELU,
        window_size: int = 0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.window_size = window_size
        self.q_stride = q_stride
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.pool = nn.MaxPool2d(q_stride, q_stride) if q_stride else None
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, self.pool)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP(dim_out, int(dim_out * mlp_ratio), dim_out, 2, act_layer)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, dim]` to `[B, H', W', dim_out]`."""
        return self._feed(self._attend(x))

    def in_strips(self, x: Tensor, tokens: int) -> Tensor:
        """Run `forward` on strips of about `tokens` tokens, as windows are independent."""
        rows = max(1, tokens // x.shape[2])
        if self.window_size == 0:
            x = self._attend(x)
            return torch.cat([self._feed(strip) for strip in x.split(rows, dim=1)], dim=1)
        rows += -rows % self.window_size
        return torch.cat([self(strip) for strip in x.split(rows, dim=1)], dim=1)

    def _attend(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm1(x)
        if self.dim != self.dim_out:
            shortcut = do_pool(self.proj(x), self.pool)
        if self.window_size == 0:
            x = self.attn(x)
        else:
            windows, (padded_h, padded_w) = window_partition(x, self.window_size)
            size = self.window_size
            if self.q_stride:
                # Pooling shrinks every window and the map.
                size //= self.q_stride[0]
                height, width = shortcut.shape[1:3]
                padded_h, padded_w = height + -height % size, width + -width % size
            x = self.attn(windows)
            height, width = shortcut.shape[1:3]
            x = window_unpartition(x, size, (padded_h, padded_w), (height, width))
        return shortcut + self.drop_path(x)

    def _feed(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Hiera(nn.Module):
    """Four stages of `MultiScaleBlock`, each with twice the channels on half the grid.

    Args:
        embed_dim: channels of the first stage.
        num_heads: heads of the first stage.
        stages: blocks in each stage.
        window_spec: window side in each stage.
        global_att_blocks: blocks that attend over the whole map instead.
        window_pos_embed_bkg_spatial_size: (H, W) of the position map, which is resized to the grid.
        return_interm_layers: return every stage's output, not only the last.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        drop_path_rate: float = 0.0,
        q_pool: int = 3,
        q_stride: tuple[int, int] = (2, 2),
        stages: tuple[int, ...] = (2, 3, 16, 3),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        window_pos_embed_bkg_spatial_size: tuple[int, int] = (14, 14),
        window_spec: tuple[int, ...] = (8, 4, 14, 7),
        global_att_blocks: tuple[int, ...] = (12, 16, 20),
        return_interm_layers: bool = True,
    ) -> None:
        super().__init__()
        if len(stages) != len(window_spec):
            raise ValueError(f"{len(stages)} stages but {len(window_spec)} window sizes")
        depth = sum(stages)
        # Hydra passes lists of its own.
        self.window_spec = tuple(window_spec)
        self.q_stride = tuple(q_stride)
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.q_pool_blocks = [end + 1 for end in self.stage_ends[:-1]][:q_pool]
        self.return_interm_layers = return_interm_layers
        self.global_att_blocks = tuple(global_att_blocks)
        self.window_pos_embed_bkg_spatial_size = tuple(window_pos_embed_bkg_spatial_size)
        self.patch_embed = PatchEmbed(embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(
            torch.zeros(1, embed_dim, window_spec[0], window_spec[0])
        )
        self._positions: CachedTensor[Tensor] = CachedTensor()
        self.blocks = nn.ModuleList()
        stage, dim = 0, embed_dim
        for i in range(depth):
            # The first block of a stage uses the windows of the previous stage, whose map it pools.
            window = 0 if i in global_att_blocks else window_spec[stage]
            dim_out = dim
            if i - 1 in self.stage_ends:
                dim_out = int(dim * dim_mul)
                num_heads = int(num_heads * head_mul)
                stage += 1
            self.blocks.append(
                MultiScaleBlock(
                    dim,
                    dim_out,
                    num_heads,
                    drop_path=drop_path_rate * i / max(depth - 1, 1),
                    q_stride=self.q_stride if i in self.q_pool_blocks else None,
                    window_size=window,
                )
            )
            dim = dim_out
        outputs = self.stage_ends[::-1] if return_interm_layers else self.stage_ends[-1:]
        self.channel_list = [self.blocks[i].dim_out for i in outputs]

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        """Return positions `[1, H, W, C]`: a resized global map plus one window's map, tiled."""
        weights = [self.pos_embed, self.pos_embed_window]
        return self._positions(hw, weights, lambda: self._stretch_and_tile(hw))

    def _stretch_and_tile(self, hw: tuple[int, int]) -> Tensor:
        stretched = F.interpolate(self.pos_embed, size=hw, mode="bicubic")
        window = self.pos_embed_window
        repeats = [a // b for a, b in zip(stretched.shape, window.shape, strict=True)]
        return (stretched + window.tile(repeats)).permute(0, 2, 3, 1)

    def forward(self, x: Tensor, strip: int | None = None) -> list[Tensor]:
        """Encode images `[B, 3, H, W]` into maps `[B, C_i, H_i, W_i]` of strides 4, 8, 16 and 32.

        Args:
            strip: tokens that a block processes at a time, to fit a CPU's cache; None for all.
        """
        x = self.patch_embed(x)
        x = x + self._get_pos_embed((x.shape[1], x.shape[2]))
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x) if strip is None else cast(MultiScaleBlock, block).in_strips(x, strip)
            if i == self.stage_ends[-1] or (self.return_interm_layers and i in self.stage_ends):
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs
