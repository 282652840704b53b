"""What is known of all objects on one frame, made ready only as far as somebody reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.data.rle import encode_rle, rle_from_counts
from fastsam2.engine.postprocess import mask_boxes
from fastsam2.engine.runtime.offload import HostCopy
from fastsam2.modeling.sam2_utils import without_overlap
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.mask_output import mask_output

__all__ = ["FrameResult", "HostResult", "one_behind"]


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

    @cached_property
    def labels(self) -> Tensor:
        """For each pixel the object whose logit is highest there, counted from 1, and 0 where there
        is none, int16 `[H, W]`."""
        if not self.obj_ids:
            return self.low_res_masks.new_zeros(self.video_size, dtype=torch.int16)
        logits = self.logits[:, 0]
        best = logits.argmax(0)
        return torch.where(logits.amax(0) > 0, best + 1, 0).to(torch.int16)

    def to_host(self) -> HostResult:
        """Begin to copy labels, masks and scores to the CPU, while the device goes on."""
        if self.non_overlap:
            masks = self.masks
        else:
            masks = mask_output(
                self.low_res_masks[:, 0], self.video_size, format="bits", impl=self.impl
            )
        copy = HostCopy([self.labels, masks, self.object_scores])
        return HostResult(self.frame_idx, self.obj_ids, self.video_size, copy)

    def rle(self) -> list[dict[str, Any]]:
        """Masks as COCO has them, `{"size": [H, W], "counts": str}` each."""
        if self.non_overlap:
            return [encode_rle(mask) for mask in self.masks.cpu().numpy()]
        runs = mask_output(self.low_res_masks[:, 0], self.video_size, format="rle", impl=self.impl)
        return [rle_from_counts(counts, self.video_size) for counts in runs.tolist()]


class HostResult:
    """What is known of all objects on one frame, on the CPU: read, it waits for the device."""

    def __init__(
        self, frame_idx: int, obj_ids: list[Any], video_size: tuple[int, int], copy: HostCopy
    ) -> None:
        self.frame_idx = frame_idx
        self.obj_ids = obj_ids
        self._video_size = video_size
        self._copy = copy

    @cached_property
    def _arrays(self) -> list[npt.NDArray[Any]]:
        return [x.numpy() for x in self._copy.wait()]

    @property
    def labels(self) -> npt.NDArray[np.int16]:
        """As of `FrameResult`."""
        return self._arrays[0]

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """Masks at the size of the video, `[O, H, W]`."""
        masks = self._arrays[1]
        if masks.dtype == np.uint8:
            masks = np.unpackbits(masks, axis=-1, count=self._video_size[1]).view(np.bool_)
        return masks

    @property
    def object_scores(self) -> npt.NDArray[np.float32]:
        """As of `FrameResult`."""
        return self._arrays[2]


def one_behind(results: Iterable[FrameResult]) -> Iterator[HostResult | None]:
    """Results on the CPU, each once the next frame has begun, so that nobody waits for the copies;
    None when the first has.

    Raises:
        Exception: whatever `results` raise, after all that came before.
    """
    last: HostResult | None = None
    try:
        for result in results:
            begun = result.to_host()
            yield last
            last = begun
    except GeneratorExit:
        raise
    except BaseException:
        yield last
        raise
    yield last
