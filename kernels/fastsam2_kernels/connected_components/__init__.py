"""Label the connected components of binary masks."""

from __future__ import annotations

from fastsam2_kernels.connected_components.op import connected_components

__all__ = ["connected_components"]
