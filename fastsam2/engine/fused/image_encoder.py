"""Image features, as the other parts take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.engine.fused.cpu_tiling import in_pieces, rows_in_cache
from fastsam2.engine.fused.fast_path import FastPath
from fastsam2.engine.fused.folding import fold_high_res
from fastsam2.engine.plan import Plan
from fastsam2.engine.runtime.runner import ready
from fastsam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["FrameFeatures", "encode_image", "features_key"]

#: Levels of the pyramid that only the mask decoder sees, at strides 4 and 8.
_HIGH_RES = 2


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


def features_key(model: SAM2Base) -> list[tuple[Tensor, Tensor]] | None:
    """What tells features of an image from others of it: the same object as long as the weights are
    what they were; None where the model's own modules must run each time."""
    own = getattr(model.forward_image, "__func__", None) is SAM2Base.forward_image
    return _high_res(model) if own else None


def encode_image(model: SAM2Base, images: Tensor) -> dict[str, Any]:
    """As `SAM2Base.forward_image`, without the two largest maps that it makes on the way: two 1x1
    convolutions after another are one."""
    folded = features_key(model)
    if folded is None:
        return model.forward_image(images)
    run = ready(model, "image encoder", _Encode(model.image_encoder, folded), (folded,))
    features = run(_rounded_up(model, images.to(model.dtype)))
    features = [x[: len(images)] for x in features]
    neck = cast(FpnNeck, model.image_encoder.neck)
    return {
        "vision_features": features[-1],
        "vision_pos_enc": [neck.position_encoding(x) for x in features],
        "backbone_fpn": features,
    }


def _rounded_up(model: SAM2Base, images: Tensor) -> Tensor:
    """One image, or as many as are encoded ahead, or twice as many, and so on: what has been
    compiled or recorded for a size serves that size only."""
    plan: Plan | None = getattr(model, "plan", None)
    if plan is None or not (plan.compile or plan.graphs) or len(images) == 1:
        return images
    size = max(1, plan.encoder_batch)
    while size < len(images):
        size *= 2
    if size == len(images):
        return images
    return torch.cat([images, images[-1:].expand(size - len(images), -1, -1, -1)])


class _Encode:
    """The image encoder, with folded weights: a pure function of images."""

    def __init__(self, encoder: ImageEncoder, folded: list[tuple[Tensor, Tensor]]) -> None:
        self._encoder, self._folded = encoder, folded

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The pyramid's maps, from the largest to the smallest that is used."""
        encoder, strip = self._encoder, rows_in_cache(images) if in_pieces(images) else None
        levels = encoder.trunk(images, strip=strip)
        high_res = [F.conv2d(levels[i], *conv) for i, conv in enumerate(self._folded)]
        features = [*high_res, *cast(FpnNeck, encoder.neck).top_down(levels, _HIGH_RES)]
        return features[: len(features) - encoder.scalp]


def _build(model: SAM2Base) -> list[tuple[Tensor, Tensor]] | None:
    encoder, neck = model.image_encoder, model.image_encoder.neck
    if not isinstance(neck, FpnNeck) or len(neck.convs) - encoder.scalp <= _HIGH_RES:
        return None
    return fold_high_res(neck, model.sam_mask_decoder)


_high_res = FastPath(
    ["image_encoder", "sam_mask_decoder.conv_s0", "sam_mask_decoder.conv_s1"], _build
)
