"""Helpers of the automatic mask generator, with the names of `sam2.utils.amg`.

Boxes are (x0, y0, x1, y1) in pixels by default; x1 and y1 of a mask's box are inclusive.
An uncompressed RLE is `{"size": [H, W], "counts": [...]}` as in COCO: run lengths in column order,
background first.
"""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from fastsam2.data.rle import area, decode_rle, rle_from_counts
from fastsam2.errors import InputError, whole_number
from fastsam2.utils.misc import mask_to_box
from fastsam2_kernels.connected_components import connected_components
from fastsam2_kernels.mask_output import pack_bits, run_lengths

__all__ = [
    "RLE",
    "MaskData",
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_area",
    "box_nms",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]

RLE = dict[str, Any]
Column = list[Any] | np.ndarray | torch.Tensor
BoxT = TypeVar("BoxT", list[Any], np.ndarray, torch.Tensor)

NMS_BLOCK = 1024


class MaskData:
    """Columns of equal length by name, with one row per mask: lists, arrays or tensors."""

    def __init__(self, **columns: Column) -> None:
        self._stats: dict[str, Column] = {}
        for name, column in columns.items():
            self[name] = column

    def __setitem__(self, key: str, item: Column) -> None:
        if not isinstance(item, (list, np.ndarray, torch.Tensor)):
            raise InputError(f"{key} must be a list, array or tensor, got {type(item).__name__}")
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Column]:
        """Return pairs of name and column."""
        return self._stats.items()

    def filter(self, keep: torch.Tensor) -> None:
        """Keep the rows of a bool mask [M], or those of an index [K] in its order."""
        keep = keep.detach()
        rows = (keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep).tolist()
        for name, column in self._stats.items():
            if isinstance(column, torch.Tensor):
                self._stats[name] = column[keep.to(column.device)]
            elif isinstance(column, np.ndarray):
                self._stats[name] = column[rows]
            else:
                self._stats[name] = [column[row] for row in rows]

    def cat(self, new_stats: MaskData) -> None:
        """Append the rows of another record."""
        for name, new in new_stats.items():
            old: Any = self._stats.get(name)
            if old is None:
                self._stats[name] = deepcopy(new)
            elif isinstance(new, torch.Tensor):
                self._stats[name] = torch.cat([old, new])
            elif isinstance(new, np.ndarray):
                self._stats[name] = np.concatenate([old, new])
            else:
                self._stats[name] = [*old, *new]

    def to_numpy(self) -> None:
        """Turn tensors into float32 arrays."""
        for name, column in self._stats.items():
            if isinstance(column, torch.Tensor):
                self._stats[name] = column.float().detach().cpu().numpy()


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Yield consecutive batches of sequences of equal length; the last may be shorter."""
    lengths = [len(arg) for arg in args]
    if len(set(lengths)) != 1:
        raise InputError(f"sequences to batch must have the same length, got {lengths}")
    for start in range(0, lengths[0], batch_size):
        yield [arg[start : start + batch_size] for arg in args]


def build_point_grid(n_per_side: int) -> np.ndarray:
    """Return the centres of n x n equal cells of the unit square, row by row, float64 [n * n, 2] as
    (x, y)."""
    n_per_side = whole_number("the number of points per side", n_per_side, least=1)
    offset = 1 / (2 * n_per_side)
    side = np.linspace(offset, 1 - offset, n_per_side)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def build_all_layer_point_grids(
    n_per_side: int, n_layers: int, scale_per_layer: int
) -> list[np.ndarray]:
    """Build the point grids of the whole image and of each crop layer.

    Args:
        scale_per_layer: divides the points per side from one layer to the next.
    """
    return [build_point_grid(int(n_per_side / scale_per_layer**i)) for i in range(n_layers + 1)]


def generate_crop_boxes(
    im_size: Sequence[int], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Return the boxes of the whole image and of 4**i overlapping crops for each layer i, and the
    layer of each box."""
    im_h, im_w = im_size
    boxes, layers = [[0, 0, im_w, im_h]], [0]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(im_h, im_w) * (2 / n))
        crop_w, crop_h = (math.ceil((overlap * (n - 1) + size) / n) for size in (im_w, im_h))
        for i_x, i_y in product(range(n), range(n)):
            x0, y0 = i_x * (crop_w - overlap), i_y * (crop_h - overlap)
            boxes.append([x0, y0, min(x0 + crop_w, im_w), min(y0 + crop_h, im_h)])
            layers.append(layer)
    return boxes, layers


def uncrop_points(points: torch.Tensor, crop_box: Sequence[int]) -> torch.Tensor:
    """Convert points [..., 2] of a crop to points of the image."""
    return points + torch.tensor(crop_box[:2], device=points.device)


def uncrop_boxes_xyxy(boxes: torch.Tensor, crop_box: Sequence[int]) -> torch.Tensor:
    """Convert boxes [..., 4] of a crop to boxes of the image."""
    return boxes + torch.tensor([*crop_box[:2], *crop_box[:2]], device=boxes.device)


def uncrop_masks(
    masks: torch.Tensor, crop_box: Sequence[int], orig_h: int, orig_w: int
) -> torch.Tensor:
    """Pad masks [..., h, w] of a crop to masks [..., H, W] of the image, 0 outside the crop."""
    x0, y0, x1, y1 = crop_box
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1))


def is_box_near_crop_edge(
    boxes: torch.Tensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = 20.0
) -> torch.Tensor:
    """Return bool [M], True for boxes [M, 4] of a crop within `atol` pixels of a crop edge that is
    not also an edge of the image."""
    in_image = uncrop_boxes_xyxy(boxes, crop_box).float()

    def near(edges: Sequence[int]) -> torch.Tensor:
        return (in_image - torch.tensor(edges, device=boxes.device)).abs() <= atol

    return (near(crop_box) & ~near(orig_box)).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: BoxT) -> BoxT:
    """Convert one box from (x0, y0, x1, y1) to (x0, y0, width, height)."""
    box = deepcopy(box_xyxy)
    box[2] = box[2] - box[0]
    box[3] = box[3] - box[1]
    return box


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    """Return the areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def batched_mask_to_box(masks: torch.Tensor) -> torch.Tensor:
    """Return the boxes of bool masks [..., H, W], int64 [..., 4]; zeros for an empty mask."""
    boxes = mask_to_box(masks).long()
    return boxes * (boxes[..., 2:3] >= 0)


def calculate_stability_score(
    masks: torch.Tensor, mask_threshold: float, threshold_offset: float
) -> torch.Tensor:
    """Return the IoU [...] of logits [..., H, W] thresholded above and below `mask_threshold`."""
    # One mask contains the other, so their areas are the intersection and the union.
    intersections = (masks > mask_threshold + threshold_offset).sum((-2, -1))
    unions = (masks > mask_threshold - threshold_offset).sum((-2, -1))
    return intersections / unions


def box_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: [M, 4] float.
        scores: [M]; of boxes with equal scores the earlier one is preferred.
        iou_threshold: boxes with a larger IoU with a kept one are dropped.

    Returns:
        Indices [K] of the kept boxes, best first.

    Same results as `torchvision.ops.nms`. Boxes are processed in blocks: one overlap matrix drops
    the boxes that earlier blocks suppress, and within the block the rule "kept unless a better kept
    box overlaps" is iterated until it is stable, in as many rounds as the longest chain of boxes.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    kept = order[:0]
    for block in order.split(NMS_BLOCK):
        candidates = block[~_overlap(boxes[kept], boxes[block], iou_threshold).any(0)]
        better = _overlap(boxes[candidates], boxes[candidates], iou_threshold).triu(1)
        keep = torch.ones_like(candidates, dtype=torch.bool)
        while not torch.equal(update := ~(better & keep[:, None]).any(0), keep):
            keep = update
        kept = torch.cat([kept, candidates[keep]])
    return kept


def _overlap(a: torch.Tensor, b: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return bool [M, N], True if the IoU of boxes [M, 4] and [N, 4] exceeds the threshold."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    width, height = (high - low).clamp_min(0).unbind(-1)
    inter = width * height
    iou = inter / (box_area(a)[:, None] + box_area(b) - inter)
    # torchvision compares in float64, where the float32 value of 0.8 exceeds 0.8. Comparing with
    # the next float32 below the threshold gives the same results without a float64 matrix.
    limit = np.float32(iou_threshold)
    if float(limit) > iou_threshold:
        limit = np.nextafter(limit, np.float32(-1))
    return iou > float(limit)


def mask_to_rle_pytorch(tensor: torch.Tensor) -> list[RLE]:
    """Encode bool masks [M, H, W] as uncompressed RLE; only run lengths leave the device."""
    runs = run_lengths(pack_bits(tensor), tensor.shape[-1])
    return [{"size": list(runs.size), "counts": counts} for counts in runs.tolist()]


def rle_to_mask(rle: RLE) -> np.ndarray:
    """Decode an uncompressed RLE to bool [H, W]."""
    return decode_rle(rle)


def area_from_rle(rle: RLE) -> int:
    """Return the number of foreground pixels of an uncompressed RLE."""
    return area(rle)


def coco_encode_rle(uncompressed_rle: RLE) -> RLE:
    """Convert an uncompressed RLE to COCO's compressed form, with `counts` a str for JSON."""
    return rle_from_counts(uncompressed_rle["counts"], uncompressed_rle["size"])


def remove_small_regions(
    mask: np.ndarray, area_thresh: float, mode: Literal["holes", "islands"]
) -> tuple[np.ndarray, bool]:
    """Fill holes, or remove islands, of bool `mask` [H, W] smaller than `area_thresh` pixels.

    If all islands are small, the largest one is kept.

    Returns:
        The mask, and True if it changed.

    Raises:
        InputError: `mode` is unknown.
    """
    if mode not in ("holes", "islands"):
        raise InputError(f"mode must be 'holes' or 'islands', got {mode!r}")
    mask = np.asarray(mask, dtype=bool)
    region = ~mask if mode == "holes" else mask
    labels, areas = (x.numpy() for x in connected_components(torch.from_numpy(region.copy())))
    small = region & (areas < area_thresh)
    if not small.any():
        return mask, False
    if mode == "islands" and np.array_equal(small, mask):
        small &= labels != labels.flat[areas.argmax()]
    return mask ^ small, True
