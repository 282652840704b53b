"""Checkpoints: find weights by name, read them in any known format, load them into a model."""

from __future__ import annotations

from fastsam2.checkpoints.load import infer_config, load_checkpoint, load_state_dict
from fastsam2.checkpoints.sources import download, resolve_model
from fastsam2.checkpoints.transformers_format import read_hf_options

__all__ = [
    "download",
    "infer_config",
    "load_checkpoint",
    "load_state_dict",
    "read_hf_options",
    "resolve_model",
]
