"""Parts of the model fused for inference: folded weights, all objects of a frame in one batch."""

from __future__ import annotations
