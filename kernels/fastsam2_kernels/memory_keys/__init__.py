"""Rotated keys of every memory that is read, for all layers at once."""

from __future__ import annotations

from fastsam2_kernels.memory_keys.op import memory_keys

__all__ = ["memory_keys"]
