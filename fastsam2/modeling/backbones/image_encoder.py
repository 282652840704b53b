"""Backbone and feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FpnNeck", "ImageEncoder"]


class FpnNeck(nn.Module):
    """A feature pyramid (arXiv 1612.03144) of 1x1 convolutions.

    Args:
        position_encoding: computes the positions of each level.
        d_model: channels of every level.
        backbone_channel_list: channels of the backbone's maps, smallest map first.
        fpn_interp_model: interpolation mode that enlarges the map above.
        fuse_type: `"sum"`, or `"avg"` for the mean of the two.
        fpn_top_down_levels: levels to which the map above is added; None for all.
    """

    def __init__(
        self,
        position_encoding: nn.Module,
        d_model: int,
        backbone_channel_list: Sequence[int],
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        fpn_interp_model: str = "bilinear",
        fuse_type: str = "sum",
        fpn_top_down_levels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type must be 'sum' or 'avg', not {fuse_type!r}")
        self.position_encoding = position_encoding
        self.d_model = d_model
        self.backbone_channel_list = list(backbone_channel_list)
        self.convs = nn.ModuleList()
        for channels in backbone_channel_list:
            level = nn.Sequential()
            level.add_module("conv", nn.Conv2d(channels, d_model, kernel_size, stride, padding))
            self.convs.append(level)
        self.fpn_interp_model = fpn_interp_model
        self.fuse_type = fuse_type
        levels = range(len(self.convs)) if fpn_top_down_levels is None else fpn_top_down_levels
        self.fpn_top_down_levels = list(levels)

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Turn the backbone's maps, largest first, into features and positions of the same
        sizes."""
        features = self.top_down(xs, 0)
        return features, [self.position_encoding(x) for x in features]

    def top_down(self, xs: Sequence[Tensor], lowest: int) -> list[Tensor]:
        """Return the features of level `lowest` and those above it, largest first."""
        if len(xs) != len(self.convs):
            raise ValueError(f"{len(xs)} maps for {len(self.convs)} levels")
        features: list[Tensor] = []
        above: Tensor | None = None
        for level in reversed(range(lowest, len(xs))):
            lateral = self.convs[len(xs) - 1 - level](xs[level])
            if above is not None and level in self.fpn_top_down_levels:
                lateral = lateral + self._enlarge(above).to(lateral.dtype)
                if self.fuse_type == "avg":
                    lateral = lateral / 2
            above = lateral
            features.insert(0, lateral)
        return features

    def _enlarge(self, x: Tensor) -> Tensor:
        """Double height and width, in at least float32."""
        align = None if self.fpn_interp_model == "nearest" else False
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.interpolate(
            wide, scale_factor=2.0, mode=self.fpn_interp_model, align_corners=align
        )


class ImageEncoder(nn.Module):
    """Trunk and neck; the `scalp` smallest levels are dropped."""

    def __init__(self, trunk: nn.Module, neck: nn.Module, scalp: int = 0) -> None:
        super().__init__()
        given: Any = trunk.channel_list
        taken: Any = neck.backbone_channel_list
        if list(given) != list(taken):
            raise ValueError(f"the trunk has channels {given}, but the neck takes {taken}")
        self.trunk = trunk
        self.neck = neck
        self.scalp = scalp

    def forward(self, sample: Tensor) -> dict[str, Any]:
        """Encode images `[B, 3, S, S]`.

        Returns:
            `vision_features` (the smallest map kept); `vision_pos_enc` and `backbone_fpn`, lists of
            `[B, C, H_i, W_i]`, largest first.
        """
        features, positions = self.neck(self.trunk(sample))
        keep = len(features) - self.scalp
        features, positions = features[:keep], positions[:keep]
        return {
            "vision_features": features[-1],
            "vision_pos_enc": positions,
            "backbone_fpn": features,
        }
