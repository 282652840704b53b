"""A ConvNeXt block in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["cx_block_reference"]


def cx_block_reference(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
) -> Tensor:
    """Specification of `op.cx_block`, and its path on the CPU, in any floating dtype."""
    channels = x.shape[-1]
    if x.numel() == 0:
        return x.clone()
    # A view of NCHW shape, in channels-last memory.
    y = x.permute(0, 3, 1, 2)
    y = F.conv2d(y, dw_weight[:, None], dw_bias, padding=3, groups=channels)
    y = F.layer_norm(y.permute(0, 2, 3, 1), (channels,), norm_weight, norm_bias, eps)
    y = F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2)
    return (x + y).contiguous()
