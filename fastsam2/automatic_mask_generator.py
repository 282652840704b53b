"""`SAM2AutomaticMaskGenerator`: segmentation of everything in an image from a grid of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from fastsam2.checkpoints import resolve_model
from fastsam2.errors import InputError, whole_number
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.predictors.building import build_image_model
from fastsam2.sam2_image_predictor import SAM2ImagePredictor
from fastsam2.utils.amg import (
    MaskData,
    area_from_rle,
    batch_iterator,
    batched_mask_to_box,
    box_area,
    box_nms,
    box_xyxy_to_xywh,
    build_all_layer_point_grids,
    calculate_stability_score,
    coco_encode_rle,
    generate_crop_boxes,
    is_box_near_crop_edge,
    mask_to_rle_pytorch,
    remove_small_regions,
    rle_to_mask,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)

__all__ = ["SAM2AutomaticMaskGenerator"]

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
ENCODERS = {
    "binary_mask": rle_to_mask,
    "uncompressed_rle": lambda rle: rle,
    "coco_rle": coco_encode_rle,
}


class SAM2AutomaticMaskGenerator:
    """Segments everything in an image: prompts a grid of points, keeps good and distinct masks.

    Args:
        model: a `SAM2Base`, or a video predictor.
        points_per_side: points along each side of the grid; None if `point_grids` is given.
        points_per_batch: points decoded in one batch; more need more memory.
        pred_iou_thresh: keep masks with a higher predicted IoU, in [0, 1]; 0 keeps all.
        stability_score_thresh: keep masks of at least this stability, in [0, 1]; 0 keeps all.
        stability_score_offset: the stability is the IoU of the masks at `mask_threshold` plus and
            minus this offset in logits.
        mask_threshold: logits above it are foreground.
        box_nms_thresh: of masks whose boxes have a larger IoU than this, keep the better one.
        crop_n_layers: number of crop layers; layer i also segments 4**i crops of the image.
        crop_nms_thresh: `box_nms_thresh` between crops; masks from smaller crops are kept.
        crop_overlap_ratio: overlap of the first layer's crops, as a fraction of the shorter side.
        crop_n_points_downscale_factor: divide the points per side by this factor**i in layer i.
        point_grids: for each layer, points [P, 2] as (x, y) in [0, 1].
        min_mask_region_area: remove smaller holes and specks, in low-resolution pixels.
        output_mode: "binary_mask" for bool arrays [H, W], "uncompressed_rle" or "coco_rle".
        use_m2m: refine each mask once with itself as a prompt.
        multimask_output: decode three masks for each point, not one.
        kwargs: ignored, as in `sam2`.

    Raises:
        InputError: both or neither of `points_per_side` and `point_grids`, fewer grids than
            layers, or an unknown `output_mode`.

    Source: `sam2.automatic_mask_generator`. Masks with a low predicted IoU are dropped before they
    are upsampled, with the same results.
    """

    def __init__(
        self,
        model: SAM2Base,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: OutputMode = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        **kwargs: Any,
    ) -> None:
        if points_per_side is not None and point_grids is None:
            point_grids = build_all_layer_point_grids(
                points_per_side, crop_n_layers, crop_n_points_downscale_factor
            )
        elif points_per_side is not None or point_grids is None:
            raise InputError(
                "exactly one of points_per_side and point_grids must be given, got "
                f"points_per_side={points_per_side} and "
                f"{'no' if point_grids is None else len(point_grids)} point_grids"
            )
        if len(point_grids) <= crop_n_layers:
            raise InputError(
                f"crop_n_layers={crop_n_layers} needs {crop_n_layers + 1} point_grids, got "
                f"{len(point_grids)}"
            )
        if output_mode not in ENCODERS:
            raise InputError(f"output_mode must be one of {list(ENCODERS)}, got {output_mode!r}")
        self.predictor = SAM2ImagePredictor(
            model,
            max_hole_area=min_mask_region_area,
            max_sprinkle_area=min_mask_region_area,
        )
        self.point_grids = point_grids
        self.points_per_batch = whole_number("points_per_batch", points_per_batch, least=1)
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.mask_threshold = mask_threshold
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2AutomaticMaskGenerator:
        """Build a generator with the weights of a Hugging Face repository.

        Args:
            model_id: such as `facebook/sam2.1-hiera-tiny`; also a short name or a local path.
            kwargs: passed to the model's builder and to the constructor, which ignore unknown ones.
        """
        return cls(build_image_model(*resolve_model(model_id), **kwargs), **kwargs)

    @torch.no_grad()
    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Segment an RGB image [H, W, 3], uint8.

        Returns:
            For each mask a dictionary: `segmentation` in the form of `output_mode`, `area` in
            pixels, `bbox` [x0, y0, width, height], `predicted_iou`, `point_coords` [[x, y]],
            `stability_score`, and `crop_box` [x0, y0, width, height].

        Raises:
            InputError: `image` is not such an array.
        """
        data = self._generate_masks(image)
        encode = ENCODERS[self.output_mode]
        return [
            {
                "segmentation": encode(data["rles"][i]),
                "area": area_from_rle(data["rles"][i]),
                "bbox": box_xyxy_to_xywh(data["boxes"][i]).tolist(),
                "predicted_iou": data["iou_preds"][i].item(),
                "point_coords": [data["points"][i].tolist()],
                "stability_score": data["stability_score"][i].item(),
                "crop_box": box_xyxy_to_xywh(data["crop_boxes"][i]).tolist(),
            }
            for i in range(len(data["rles"]))
        ]

    def _generate_masks(self, image: np.ndarray) -> MaskData:
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            shape = getattr(image, "shape", type(image).__name__)
            raise InputError(f"expected an array [H, W, 3], got {shape}")
        orig_size = image.shape[:2]
        crop_boxes, layers = generate_crop_boxes(
            orig_size, self.crop_n_layers, self.crop_overlap_ratio
        )
        data = MaskData(rles=[])
        for crop_box, layer in zip(crop_boxes, layers, strict=True):
            if crop_box[0] == crop_box[2] or crop_box[1] == crop_box[3]:
                continue  # the image has fewer pixels than crops
            data.cat(self._process_crop(image, crop_box, layer, orig_size))
        if len(crop_boxes) > 1:
            scores = 1 / box_area(data["crop_boxes"])
            data.filter(box_nms(data["boxes"].float(), scores, self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _process_crop(
        self,
        image: np.ndarray,
        crop_box: Sequence[int],
        crop_layer_idx: int,
        orig_size: tuple[int, ...],
    ) -> MaskData:
        """Segment one crop; returns its distinct masks, with boxes and points in the image."""
        x0, y0, x1, y1 = crop_box
        self.predictor.set_image(image[y0:y1, x0:x1])
        grid = self.point_grids[crop_layer_idx] * np.array([x1 - x0, y1 - y0])
        data = MaskData(rles=[])
        for (points,) in batch_iterator(self.points_per_batch, grid):
            data.cat(
                self._process_batch(points, (y1 - y0, x1 - x0), crop_box, orig_size, normalize=True)
            )
        self.predictor.reset_predictor()
        data.filter(box_nms(data["boxes"].float(), data["iou_preds"], self.box_nms_thresh))

        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor(crop_box, device=data["boxes"].device).expand(
            len(data["rles"]), -1
        )
        return data

    def _process_batch(
        self,
        points: np.ndarray,
        im_size: tuple[int, ...],
        crop_box: Sequence[int],
        orig_size: tuple[int, ...],
        normalize: bool = False,
    ) -> MaskData:
        """Segment points [P, 2] in pixels of the crop; returns the masks that pass the thresholds,
        as RLE of the image's size."""
        coords = torch.as_tensor(points, dtype=torch.float32, device=self.predictor.device)
        inputs = self.predictor._transforms.transform_coords(coords, normalize, im_size)
        low_res_masks, iou_preds = self.predictor._decode(
            inputs[:, None],
            torch.ones_like(inputs[:, :1], dtype=torch.int),
            multimask_output=self.multimask_output,
        )
        n_masks = low_res_masks.shape[1]
        data = MaskData(
            low_res_masks=low_res_masks.flatten(0, 1),
            iou_preds=iou_preds.flatten(0, 1),
            points=coords.repeat_interleave(n_masks, dim=0),
        )
        if self.use_m2m:
            inputs = inputs.repeat_interleave(n_masks, dim=0)
            data["low_res_masks"], data["iou_preds"] = self._refine(inputs, data["low_res_masks"])
        if self.pred_iou_thresh > 0.0:
            data.filter(data["iou_preds"] > self.pred_iou_thresh)

        masks = self.predictor._transforms.postprocess_masks(
            data["low_res_masks"][:, None], im_size
        )
        data["masks"] = masks[:, 0]
        del data["low_res_masks"]
        data["stability_score"] = calculate_stability_score(
            data["masks"], self.mask_threshold, self.stability_score_offset
        )
        if self.stability_score_thresh > 0.0:
            data.filter(data["stability_score"] >= self.stability_score_thresh)

        data["masks"] = data["masks"] > self.mask_threshold
        data["boxes"] = batched_mask_to_box(data["masks"])
        image_box = [0, 0, orig_size[1], orig_size[0]]
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, image_box))
        data["rles"] = mask_to_rle_pytorch(uncrop_masks(data["masks"], crop_box, *orig_size))
        del data["masks"]
        return data

    def _refine(
        self, inputs: torch.Tensor, low_res_masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode each point [M, 2] again, with its mask [M, h, w] as a prompt; returns masks
        [M, h, w] and scores [M]."""
        refined = [
            self.predictor._decode(
                points[:, None],
                torch.ones_like(points[:, :1], dtype=torch.int),
                mask_input=masks[:, None].clamp(-32.0, 32.0),
                multimask_output=False,
            )
            for points, masks in batch_iterator(self.points_per_batch, inputs, low_res_masks)
        ]
        masks, scores = (torch.cat(column)[:, 0] for column in zip(*refined, strict=True))
        return masks, scores

    @staticmethod
    def postprocess_small_regions(
        mask_data: MaskData, min_area: int, nms_thresh: float
    ) -> MaskData:
        """Fill small holes and remove small islands of RLE masks, then remove duplicate masks.

        Args:
            mask_data: has `rles` and `boxes` [M, 4]; changed in place and returned.
            min_area: area in pixels below which regions are removed.
            nms_thresh: threshold like `box_nms_thresh`; prefers masks that needed no change.
        """
        if not mask_data["rles"]:
            return mask_data
        masks, unchanged = [], []
        for rle in mask_data["rles"]:
            filled, has_holes = remove_small_regions(rle_to_mask(rle), min_area, "holes")
            mask, has_islands = remove_small_regions(filled, min_area, "islands")
            masks.append(mask)
            unchanged.append(not (has_holes or has_islands))
        tensor = torch.from_numpy(np.stack(masks))
        boxes = batched_mask_to_box(tensor)
        keep = box_nms(boxes.float(), torch.tensor(unchanged, dtype=torch.float32), nms_thresh)
        for i in keep.tolist():
            if not unchanged[i]:
                mask_data["rles"][i] = mask_to_rle_pytorch(tensor[i : i + 1])[0]
                mask_data["boxes"][i] = boxes[i]
        mask_data.filter(keep)
        return mask_data
