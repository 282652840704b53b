"""Attention to a paged memory whose values are the latents themselves."""

from __future__ import annotations

from fastsam2_kernels.memory_attention.op import memory_attention

__all__ = ["memory_attention"]
