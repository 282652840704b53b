"""Memory encoder: encodes a frame's features and mask into 64-wide memory (arXiv 2408.00714)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsam2.config import ConvNeXtConfig, FuserConfig, MaskDownSamplerConfig, MemoryEncoderConfig
from fastsam2.modeling.position_encoding import PositionEmbeddingSine
from fastsam2.modeling.sam2_utils import LayerNorm2d

__all__ = ["CXBlock", "Fuser", "MaskDownSampler", "MemoryEncoder"]


class MaskDownSampler(nn.Module):
    """Strided convolutions with norm and GELU, widening as the area shrinks, then a 1x1 one."""

    def __init__(self, embed_dim: int, config: MaskDownSamplerConfig) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        stride, channels, reached = config.stride, 1, 1
        while reached < config.total_stride:
            wider = channels * stride**2
            self.encoder.append(
                nn.Conv2d(channels, wider, config.kernel_size, stride, config.padding)
            )
            self.encoder.append(LayerNorm2d(wider))
            self.encoder.append(nn.GELU())
            channels, reached = wider, reached * stride
        if reached != config.total_stride:
            raise ValueError(f"total_stride {config.total_stride} is no power of stride {stride}")
        self.encoder.append(nn.Conv2d(channels, embed_dim, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, S, S]` to `[B, embed_dim, S / total_stride, S / total_stride]`."""
        return self.encoder(x)


class CXBlock(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545): depthwise 7x7, norm, channel MLP, scaled residual."""

    gamma: nn.Parameter | None

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        dim = config.dim
        groups = dim if config.use_dwconv else 1
        self.dwconv = nn.Conv2d(dim, dim, config.kernel_size, padding=config.padding, groups=groups)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        scale = config.layer_scale_init_value
        self.gamma = nn.Parameter(torch.full((dim,), scale)) if scale > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape."""
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """A chain of CXBlocks."""

    def __init__(self, config: FuserConfig) -> None:
        super().__init__()
        self.proj = nn.Identity()
        self.layers = nn.ModuleList(CXBlock(config.layer) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Mask downsampler + pixel projection -> fuser -> output projection, with sine positions."""

    def __init__(self, config: MemoryEncoderConfig) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler(config.in_dim, config.mask_downsampler)
        self.pix_feat_proj = nn.Conv2d(config.in_dim, config.in_dim, kernel_size=1)
        self.fuser = Fuser(config.fuser)
        self.position_encoding = PositionEmbeddingSine(config.out_dim)
        self.out_proj: nn.Module = nn.Identity()
        if config.out_dim != config.in_dim:
            self.out_proj = nn.Conv2d(config.in_dim, config.out_dim, kernel_size=1)

    def forward(
        self, pix_feat: Tensor, masks: Tensor, skip_mask_sigmoid: bool = False
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode a frame into memory.

        Args:
            pix_feat: image features `[B, C, H, W]`.
            masks: mask logits at image size `[B, 1, 16 H, 16 W]`, or, with `skip_mask_sigmoid`,
                values that skip the sigmoid.

        Returns:
            `vision_features` `[B, out_dim, H, W]` and `vision_pos_enc`, a list of one such map.
        """
        if not skip_mask_sigmoid:
            masks = masks.sigmoid()
        masks = self.mask_downsampler(masks)
        x = self.pix_feat_proj(pix_feat.to(masks.device)) + masks
        x = self.out_proj(self.fuser(x))
        return {"vision_features": x, "vision_pos_enc": [self.position_encoding(x)]}
