"""Attention to a paged memory whose values are the latents themselves."""

from __future__ import annotations

from fastsam2_kernels.memory_attention.op import memory_attention
from fastsam2_kernels.memory_attention.paged_memory import PagedMemory

__all__ = ["PagedMemory", "memory_attention"]
