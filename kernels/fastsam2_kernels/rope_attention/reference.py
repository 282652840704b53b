"""Self-attention with rotary positions in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.rotary import rotate

__all__ = ["rope_attention_reference"]


def rope_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, scale: float
) -> Tensor:
    """Specification of `op.rope_attention`, and its path on the CPU, in any floating dtype.

    On the CPU, PyTorch uses flash attention as long as queries, keys and values are equally wide.
    """
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    # PyTorch's fused kernels expect an axis of heads; there is one.
    out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)
    return out[:, 0].contiguous()
