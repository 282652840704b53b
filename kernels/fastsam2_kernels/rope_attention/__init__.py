"""Self-attention of one head with rotary positions."""

from __future__ import annotations

from fastsam2_kernels.rope_attention.op import rope_attention

__all__ = ["rope_attention"]
