"""Self-attention with rotary positions in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastsam2_kernels.rotary import turn

__all__ = ["rope_attention_reference"]


def rope_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, scale: float
) -> Tensor:
    """The specification of `op.rope_attention`, and its path on the CPU: any floating dtype.

    PyTorch's attention is flash attention on the CPU in any of them, as long as queries, keys and
    values are equally wide.
    """
    q, k = turn(q, cos, sin), turn(k, cos, sin)
    # One head: the layout that the fast kernels of PyTorch take has an axis for it.
    out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)
    return out[:, 0].contiguous()
