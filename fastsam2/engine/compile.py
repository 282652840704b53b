"""Compilation of the model's parts with torch.compile."""

from __future__ import annotations

from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["compile_image_encoder", "compile_parts"]


def compile_image_encoder(model: SAM2Base) -> None:
    """Compile the image encoder in place; the first frame then takes minutes, not milliseconds."""
    model.image_encoder.compile(dynamic=False)


def compile_parts(model: SAM2Base) -> None:
    """Compile every part that runs once a frame, in place."""
    compile_image_encoder(model)
    model.memory_encoder.compile(dynamic=False)
    # The number of memories grows until the bank is full.
    model.memory_attention.compile(dynamic=True)
    model.sam_mask_decoder.compile(dynamic=False)
