"""Image features of one frame, in the layout the other parts take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["FrameFeatures"]


@dataclass(frozen=True)
class FrameFeatures:
    """Features of a frame, batch 1; C channels on an H x W grid of stride 16."""

    pix_feat: Tensor  #: `[1, C, H, W]`
    pix_pos: Tensor  #: positions of it
    high_res: list[Tensor] | None  #: maps of strides 4 and 8, as the mask decoder takes them

    @classmethod
    def of(cls, model: SAM2Base, backbone_out: dict[str, Any]) -> FrameFeatures:
        """Pick them from what `SAM2Base.forward_image` returned."""
        *high_res, pix_feat = backbone_out["backbone_fpn"][-model.num_feature_levels :]
        return cls(pix_feat, backbone_out["vision_pos_enc"][-1], high_res or None)
