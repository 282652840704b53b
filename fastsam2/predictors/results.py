"""What is known of all objects on one frame, made ready only as far as somebody reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.data.rle import encode_rle, rle_from_counts
from fastsam2.engine.postprocess import mask_boxes
from fastsam2.modeling.sam2_utils import without_overlap
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.mask_output import mask_output

__all__ = ["FrameResult"]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The objects of a video on one frame, O of them.

    Masks at the size of the video are made when they are first asked for, and each kind on its own:
    whoever reads `rle()` alone never pays for `logits`.
    """

    frame_idx: int
    obj_ids: list[Any]
    low_res_masks: Tensor  #: mask logits as the model makes them, float `[O, 1, S / 4, S / 4]`
    object_score_logits: Tensor  #: presence logits `[O]`
    predicted_iou: Tensor  #: how good the model thinks each mask is, `[O]`
    video_size: tuple[int, int]  #: (height, width)
    non_overlap: bool = False  #: each pixel is given to one object at most
    impl: Impl = "auto"  #: which kernel makes the masks

    @property
    def object_scores(self) -> Tensor:
        """Probability that each object is visible, float32 `[O]`."""
        return self.object_score_logits.float().sigmoid()

    @cached_property
    def logits(self) -> Tensor:
        """Mask logits at the size of the video, float32 `[O, 1, H, W]`."""
        masks = self.low_res_masks.float()
        if masks.shape[-2:] != self.video_size:
            masks = F.interpolate(masks, self.video_size, mode="bilinear", align_corners=False)
        return without_overlap(masks) if self.non_overlap else masks

    @cached_property
    def masks(self) -> Tensor:
        """Masks at the size of the video, bool `[O, H, W]`."""
        if self.non_overlap:
            return self.logits[:, 0] > 0
        return mask_output(self.low_res_masks[:, 0], self.video_size, impl=self.impl)

    @cached_property
    def boxes(self) -> Tensor:
        """Boxes (x0, y0, x1, y1) of the outermost pixels of each mask, int32 `[O, 4]`; -1 where a
        mask is empty."""
        boxes = mask_boxes(self.masks)
        return torch.where(boxes[:, 2:3] < 0, -1, boxes)

    def rle(self) -> list[dict[str, Any]]:
        """Masks as COCO has them, `{"size": [H, W], "counts": str}` each."""
        if self.non_overlap:
            return [encode_rle(mask) for mask in self.masks.cpu().numpy()]
        runs = mask_output(self.low_res_masks[:, 0], self.video_size, format="rle", impl=self.impl)
        return [rle_from_counts(counts, self.video_size) for counts in runs.tolist()]
