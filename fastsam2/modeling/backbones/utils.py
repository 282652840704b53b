"""Windows over feature maps, and the patch embedding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PatchEmbed", "window_partition", "window_unpartition"]


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut `[B, H, W, C]`, zero-padded at the bottom and right, into `[B * windows, size, size, C]`.

    Returns:
        The windows and the padded (H, W).
    """
    batch, height, width, channels = x.shape
    pad_h, pad_w = -height % window_size, -width % window_size
    if pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    height, width = height + pad_h, width + pad_w
    rows, columns = height // window_size, width // window_size
    x = x.reshape(batch, rows, window_size, columns, window_size, channels)
    windows = x.transpose(2, 3).reshape(-1, window_size, window_size, channels)
    return windows, (height, width)


def window_unpartition(
    windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]
) -> Tensor:
    """Join windows and remove the padding; the inverse of `window_partition`."""
    (padded_h, padded_w), (height, width) = pad_hw, hw
    rows, columns = padded_h // window_size, padded_w // window_size
    x = windows.reshape(-1, rows, columns, window_size, window_size, windows.shape[-1])
    x = x.transpose(2, 3).reshape(-1, padded_h, padded_w, windows.shape[-1])
    return x[:, :height, :width]


class PatchEmbed(nn.Module):
    """Embedding of overlapping patches: a 7x7 convolution of stride 4, channels last."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (7, 7),
        stride: tuple[int, int] = (4, 4),
        padding: tuple[int, int] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, H / 4, W / 4, C]`."""
        return self.proj(x).permute(0, 2, 3, 1)
