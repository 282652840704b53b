"""Results of all objects on one frame, as masks, labels, boxes, areas or RLE, computed on read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from fastsam2.data.rle import EncodedMask, PackedMasks
from fastsam2.engine.runtime.offload import HostCopy
from fastsam2.modeling.sam2_utils import without_overlap
from fastsam2_kernels.dispatch import Impl
from fastsam2_kernels.mask_output import MaskOutput, mask_output

__all__ = ["FrameResult", "HostResult", "one_behind"]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Results of the O objects of a video on one frame, on the device.

    Masks, labels, boxes, areas and RLE share one pass over the low-resolution logits, which runs on
    the first read of any of them and is cached. RLE synchronizes with the device.
    """

    frame_idx: int
    obj_ids: list[Any]
    low_res_masks: Tensor  #: mask logits of the model, float `[O, 1, S / 4, S / 4]`
    object_score_logits: Tensor  #: presence logits `[O]`
    predicted_iou: Tensor  #: IoU of each mask, predicted by the model, `[O]`
    video_size: tuple[int, int]  #: (height, width)
    non_overlap: bool = False  #: set each pixel in at most one mask
    impl: Impl = "auto"  #: implementation of `mask_output`

    @property
    def object_scores(self) -> Tensor:
        """Probability that each object is visible, float32 `[O]`."""
        return self.object_score_logits.float().sigmoid()

    @cached_property
    def logits(self) -> Tensor:
        """Mask logits at video size, float32 `[O, 1, H, W]`."""
        masks = self.low_res_masks.float()
        if masks.shape[-2:] != self.video_size:
            masks = F.interpolate(masks, self.video_size, mode="bilinear", align_corners=False)
        else:
            masks = masks.clone()  # the session stores them, too
        return without_overlap(masks) if self.non_overlap else masks

    @cached_property
    def _output(self) -> MaskOutput:
        return mask_output(
            self.low_res_masks[:, 0],
            self.video_size,
            non_overlap=self.non_overlap,
            impl=self.impl,
        )

    @cached_property
    def _packed(self) -> PackedMasks:
        return _packed(self._output, self.video_size)

    @property
    def masks(self) -> Tensor:
        """Masks at video size, bool `[O, H, W]`."""
        return self._packed.masks

    @property
    def labels(self) -> Tensor:
        """Label image, int16 `[H, W]`: 1 + index of the object with the highest positive logit,
        0 where there is none."""
        return self._output.labels

    @property
    def boxes(self) -> Tensor:
        """Outermost pixels (x0, y0, x1, y1) of each mask, int32 `[O, 4]`; -1 if it is empty."""
        return self._output.boxes

    @property
    def areas(self) -> Tensor:
        """Number of pixels of each mask, int64 `[O]`."""
        return self._output.areas

    def rle(self) -> list[dict[str, Any]]:
        """Return the COCO RLE of each mask, `{"size": [H, W], "counts": str}`."""
        return self._packed.rle()

    def to_host(self) -> HostResult:
        """Start an asynchronous copy of packed masks, labels, areas, boxes and scores to the
        CPU."""
        copy = HostCopy([*self._output, self.object_scores])
        return HostResult(self.frame_idx, self.obj_ids, self.video_size, copy)


class HostResult:
    """Results of all objects on one frame, on the CPU. The first read waits for the copy."""

    def __init__(
        self, frame_idx: int, obj_ids: list[Any], video_size: tuple[int, int], copy: HostCopy
    ) -> None:
        self.frame_idx = frame_idx
        self.obj_ids = obj_ids
        self._video_size = video_size
        self._copy = copy

    @cached_property
    def _tensors(self) -> tuple[MaskOutput, Tensor]:
        *output, scores = self._copy.wait()
        return MaskOutput(*output), scores

    @property
    def _output(self) -> MaskOutput:
        return self._tensors[0]

    @cached_property
    def _packed(self) -> PackedMasks:
        return _packed(self._output, self._video_size)

    @property
    def labels(self) -> npt.NDArray[np.int16]:
        """See `FrameResult.labels`."""
        return self._output.labels.numpy()

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """Masks at video size, `[O, H, W]`."""
        return self._packed.masks.numpy()

    @property
    def boxes(self) -> npt.NDArray[np.int32]:
        """See `FrameResult.boxes`."""
        return self._output.boxes.numpy()

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """See `FrameResult.areas`."""
        return self._output.areas.numpy()

    @property
    def object_scores(self) -> npt.NDArray[np.float32]:
        """See `FrameResult.object_scores`."""
        return self._tensors[1].numpy()

    def rle(self) -> list[dict[str, Any]]:
        """See `FrameResult.rle`."""
        return self._packed.rle()

    def encode(self) -> list[EncodedMask]:
        """Return RLE, box and area of each mask."""
        return self._packed.encode()


def _packed(output: MaskOutput, size: tuple[int, int]) -> PackedMasks:
    return PackedMasks(output.bits, output.areas, output.boxes, size[1])


def one_behind(results: Iterable[FrameResult]) -> Iterator[HostResult | None]:
    """Yield results on the CPU, each after the next frame has started, so that copies overlap with
    computation. The first item is None.

    Raises:
        Exception: an error of `results`, after all earlier results have been yielded.
    """
    last: HostResult | None = None
    try:
        for result in results:
            started = result.to_host()
            yield last
            last = started
    except GeneratorExit:
        raise
    except BaseException:
        yield last
        raise
    yield last
