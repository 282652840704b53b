"""The image encoder for inference, without the largest maps of the feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.engine.fused.cpu_tiling import in_pieces, rows_in_cache
from fastsam2.engine.fused.fast_path import FastPath
from fastsam2.engine.fused.folding import fold_high_res
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.engine.runtime.runner import Runner
from fastsam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["FrameFeatures", "FusedImageEncoder", "fused_image_encoder"]

#: Levels of the pyramid that only the mask decoder reads, at strides 4 and 8.
_HIGH_RES = 2


@dataclass(frozen=True)
class FrameFeatures:
    """Features of a frame, batch 1; C channels on an H x W grid of stride 16."""

    pix_feat: Tensor  #: `[1, C, H, W]`
    pix_pos: Tensor  #: positions like `pix_feat`
    high_res: list[Tensor] | None  #: maps of strides 4 and 8, projected for the mask decoder

    @classmethod
    def of(cls, model: SAM2Base, backbone_out: dict[str, Any]) -> FrameFeatures:
        """Select the levels in use from the output of `SAM2Base.forward_image`."""
        *high_res, pix_feat = backbone_out["backbone_fpn"][-model.num_feature_levels :]
        return cls(pix_feat, backbone_out["vision_pos_enc"][-1], high_res or None)


class FusedImageEncoder:
    """`SAM2Base.forward_image` with the 1x1 convolutions of high-resolution levels folded into one.

    Args:
        encoder: the model's image encoder.
        folded: weight and bias for the trunk's levels of strides 4 and 8.
        runner: compiles or records it.
    """

    def __init__(
        self, encoder: ImageEncoder, folded: list[tuple[Tensor, Tensor]], runner: Runner
    ) -> None:
        self._encoder = encoder
        self._neck = cast(FpnNeck, encoder.neck)
        self._folded = folded
        self._plan = runner.plan
        self._dtype = folded[0][0].dtype
        self._prepared = runner.prepare("encoder", self.pyramid)

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """Encode normalised images `[B, 3, S, S]`; returns the same dictionary as
        `forward_image`."""
        with without_autocast(images.device):
            run = self.pyramid if self._prepared is None else self._prepared
            features = run(self._padded(images.to(self._dtype)))
            features = [x[: len(images)] for x in features]
            return {
                "vision_features": features[-1],
                "vision_pos_enc": [self._neck.position_encoding(x) for x in features],
                "backbone_fpn": features,
            }

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the pyramid's maps, from the largest to the smallest in use; a pure function."""
        strip = rows_in_cache(images) if in_pieces(images) else None
        levels = self._encoder.trunk(images, strip=strip)
        high_res = [F.conv2d(levels[i], *conv) for i, conv in enumerate(self._folded)]
        features = [*high_res, *self._neck.top_down(levels, _HIGH_RES)]
        return features[: len(features) - self._encoder.scalp]

    def _padded(self, images: Tensor) -> Tensor:
        """Pad a batch to 1, `encoder_batch`, twice that, and so on: a compiled function or graph
        serves one size only. Sizes that are not steady run without a graph."""
        plan = self._plan
        if not (plan.compile or plan.graphs is True) or len(images) == 1:
            return images
        size = max(1, plan.encoder_batch)
        while size < len(images):
            size *= 2
        if size == len(images):
            return images
        return torch.cat([images, images[-1:].expand(size - len(images), -1, -1, -1)])


def _build(model: SAM2Base, runner: Runner) -> FusedImageEncoder | None:
    encoder, neck = model.image_encoder, model.image_encoder.neck
    if not isinstance(neck, FpnNeck) or len(neck.convs) - encoder.scalp <= _HIGH_RES:
        return None
    folded = fold_high_res(neck, model.sam_mask_decoder)
    return None if folded is None else FusedImageEncoder(encoder, folded, runner)


#: Looks up the fused image encoder of a model.
fused_image_encoder = FastPath(
    "image_encoder",
    _build,
    parts=["image_encoder", "sam_mask_decoder.conv_s0", "sam_mask_decoder.conv_s1"],
    methods=["forward_image"],
)
