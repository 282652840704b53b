"""Build the model described by `--model`, `--checkpoint` and related options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastsam2.build_sam import build_sam2, build_sam2_video_predictor
from fastsam2.checkpoints import resolve_model
from fastsam2.errors import InputError

__all__ = ["ModelChoice"]

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class ModelChoice:
    """Model, device and precision.

    Attributes:
        name: name or path for `resolve_model`; if there is a `checkpoint`, the configuration. With
            neither, the model is the bundled nano.
        checkpoint: file of weights.
        device: such as `cuda`, `cuda:1` or `cpu`; None for CUDA if available, else the CPU.
        dtype: `float32`, `bfloat16` or `float16`; None for float32, or the plan's if `fast`.
        image_size: side in pixels of the square that images are resized to; None for the model's
            default.
        fast: use the fastest plan for the device.
    """

    name: str | None = None
    checkpoint: Path | None = None
    device: str | None = None
    dtype: str | None = None
    image_size: int | None = None
    fast: bool = False

    @property
    def title(self) -> str:
        """Name of the model in results."""
        return str(self.name or self.checkpoint or "nano")

    @property
    def hint(self) -> str:
        """Line about the default model; empty if the user chose a model."""
        if self.name is not None or self.checkpoint is not None:
            return ""
        return (
            "  model    nano (trained on synthetic videos only); for real videos use "
            "--model sam2.1-tiny, -small, -base_plus or -large"
        )

    def video_predictor(self) -> Any:
        """Build a `SAM2VideoPredictor`.

        Raises:
            FastSAM2Error: unknown model, missing checkpoint or device, or weights that do not fit.
        """
        config, weights, options = self._arguments()
        return build_sam2_video_predictor(config, weights, **options)

    def image_model(self) -> Any:
        """Build a `SAM2Base`; raises as `video_predictor`."""
        config, weights, options = self._arguments()
        return build_sam2(config, weights, **options)

    def _arguments(self) -> tuple[str | None, Path, dict[str, Any]]:
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise InputError(f"unknown --dtype {self.dtype}: choose one of {', '.join(_DTYPES)}")
        if self.checkpoint is not None:
            config, weights = self.name, self.checkpoint
        else:
            config, weights = resolve_model(self.title)
        options: dict[str, Any] = {"device": self.device}
        if self.dtype is not None:
            options["dtype"] = _DTYPES[self.dtype]
        if self.fast:
            options["plan"] = "auto"
        if self.image_size is not None:
            options["hydra_overrides_extra"] = [f"++model.image_size={self.image_size}"]
        return config, weights, options
