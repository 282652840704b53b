"""`SAM2ImagePredictor`: segmentation of single images from points, boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image

from fastsam2.checkpoints import resolve_model
from fastsam2.engine.fused.image_encoder import fused_image_encoder
from fastsam2.errors import InputError, StateError
from fastsam2.modeling.sam2_base import SAM2Base, decode_masks
from fastsam2.predictors.building import build_image_model
from fastsam2.predictors.image_prompts import (
    check_counts,
    describe,
    read_boxes,
    read_masks,
    read_points,
)
from fastsam2.utils.transforms import ImageLike, SAM2Transforms

__all__ = ["ImageFeatures", "SAM2ImagePredictor"]

Prompts = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
NO_IMAGE = "no image is set: call set_image or set_image_batch first"
MasksScoresLogits = tuple[np.ndarray, np.ndarray, np.ndarray]


class ImageFeatures(TypedDict):
    """Features of B images; h = w = image_size / 16 with the official models."""

    image_embed: torch.Tensor  # [B, 256, h, w]
    high_res_feats: list[torch.Tensor]  # [B, 32, 4h, 4w], [B, 64, 2h, 2w]


class SAM2ImagePredictor:
    """SAM 2 for images: embed an image once, then segment any number of prompts on it.

    Args:
        sam_model: a `SAM2Base`, or a video predictor; several predictors can share one.
        mask_threshold: logits above it are foreground.
        max_hole_area: holes of a mask up to this area, in low-resolution pixels, are filled.
        max_sprinkle_area: specks up to this area, in low-resolution pixels, are removed.
        kwargs: ignored, as in `sam2`.

    Source: `sam2.sam2_image_predictor`.
    """

    _features: ImageFeatures | None
    _orig_hw: list[tuple[int, int]] | None

    def __init__(
        self,
        sam_model: SAM2Base,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.model = sam_model
        self.mask_threshold = mask_threshold
        self._transforms = SAM2Transforms(
            self.model.image_size, mask_threshold, max_hole_area, max_sprinkle_area
        )
        if self.device.type == "cuda":  # resizes faster than the CPU; MPS may lack the operation
            self._transforms.to(self.device)
        self._bb_feat_sizes = [(self.model.image_size // stride,) * 2 for stride in (4, 8, 16)]
        self.reset_predictor()

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2ImagePredictor:
        """Build a predictor with the weights of a Hugging Face repository.

        Args:
            model_id: such as `facebook/sam2.1-hiera-tiny`; also a short name or a local path.
            kwargs: passed to the model's builder and to the constructor, which ignore unknown ones.
        """
        return cls(build_image_model(*resolve_model(model_id), **kwargs), **kwargs)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    def reset_predictor(self) -> None:
        """Drop the images and their features."""
        self._is_image_set = False
        self._features = None
        self._orig_hw = None
        self._is_batch = False

    def set_image(self, image: ImageLike) -> None:
        """Embed one image for `predict`.

        Args:
            image: RGB: [H, W, 3] uint8 array, PIL image, or [3, H, W] uint8 tensor; floats must
                already be scaled to [0, 1].

        Raises:
            InputError: `image` has another type, shape or dtype.
        """
        self.reset_predictor()
        self._embed(self._transforms(image)[None], [_size(image)])

    def set_image_batch(self, image_list: Sequence[ImageLike]) -> None:
        """Embed images of any sizes for `predict_batch`; see `set_image`.

        Raises:
            InputError: not a list of images, an empty one, or an invalid image.
        """
        self.reset_predictor()
        if not isinstance(image_list, (list, tuple)) or not image_list:
            raise InputError(f"expected a list of images, got {describe(image_list)}")
        images = self._transforms.forward_batch(image_list)
        self._embed(images, [_size(image) for image in image_list])
        self._is_batch = True

    @torch.no_grad()
    def _embed(self, images: torch.Tensor, sizes: list[tuple[int, int]]) -> None:
        encode = fused_image_encoder(self.model) or self.model.forward_image
        backbone_out = encode(images.to(self.device))
        _, tokens, _, feat_sizes = self.model._prepare_backbone_features(backbone_out)
        if self.model.directly_add_no_mem_embed:
            tokens[-1] = tokens[-1] + self.model.no_mem_embed
        *high_res, embed = (
            x.permute(1, 2, 0).unflatten(-1, size)
            for x, size in zip(tokens, feat_sizes, strict=True)
        )
        self._features = {"image_embed": embed, "high_res_feats": high_res}
        self._orig_hw = sizes
        self._is_image_set = True

    def predict(
        self,
        point_coords: Any | None = None,
        point_labels: Any | None = None,
        box: Any | None = None,
        mask_input: Any | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> MasksScoresLogits:
        """Segment the image that was set, for N prompts.

        All prompts are arrays, tensors or nested lists.

        Args:
            point_coords: [P, 2] or [N, P, 2] (x, y) in pixels of the image.
            point_labels: [P] or [N, P]: 1 foreground, 0 background.
            box: [4] or [N, 4] as (x0, y0, x1, y1) in pixels of the image.
            mask_input: [1, h, w] or [N, 1, h, w] logits from an earlier prediction.
            multimask_output: return three masks for each prompt, not one.
            return_logits: return masks as logits, not as 0 and 1.
            normalize_coords: False if coordinates are already in [0, 1].

        Returns:
            masks: float32 [C, H, W] at the image's size, or [N, C, H, W] for N > 1 prompts.
            scores: float32 [C] or [N, C], the predicted IoU.
            logits: float32 [C, h, w] or [N, C, h, w], h = w = image_size / 4, within +-32.

        Raises:
            StateError: no image was set.
            InputError: prompts have invalid or mismatched shapes, or hold NaN or infinity.
        """
        self._require_image()
        return self._answer(
            (point_coords, point_labels, box, mask_input),
            normalize_coords,
            multimask_output,
            return_logits,
            img_idx=-1,
        )

    def predict_batch(
        self,
        point_coords_batch: Sequence[Any] | None = None,
        point_labels_batch: Sequence[Any] | None = None,
        box_batch: Sequence[Any] | None = None,
        mask_input_batch: Sequence[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Call `predict` on each image of the batch, with lists of prompts and results.

        Raises:
            StateError: no batch was set.
            InputError: as in `predict`, or fewer prompts than images.
        """
        features = self._require_image()
        if not self._is_batch:
            raise StateError("predict_batch needs images set with set_image_batch")
        kinds = (point_coords_batch, point_labels_batch, box_batch, mask_input_batch)
        n_images = len(features["image_embed"])
        for name, prompts in zip(("points", "labels", "boxes", "masks"), kinds, strict=True):
            if prompts is not None and len(prompts) < n_images:
                raise InputError(f"{n_images} images need as many {name}, got {len(prompts)}")

        def nth(prompts: Sequence[Any] | None, i: int) -> Any:
            return None if prompts is None else prompts[i]

        answers = [
            self._answer(
                (
                    nth(point_coords_batch, i),
                    nth(point_labels_batch, i),
                    nth(box_batch, i),
                    nth(mask_input_batch, i),
                ),
                normalize_coords,
                multimask_output,
                return_logits,
                img_idx=i,
            )
            for i in range(n_images)
        ]
        masks, scores, logits = (list(column) for column in zip(*answers, strict=True))
        return masks, scores, logits

    def _answer(
        self,
        prompts: tuple[Any, Any, Any, Any],
        normalize_coords: bool,
        multimask_output: bool,
        return_logits: bool,
        img_idx: int,
    ) -> MasksScoresLogits:
        mask_input, points, labels, boxes = self._prep_prompts(
            *prompts, normalize_coords=normalize_coords, img_idx=img_idx
        )
        masks, scores, logits = self._predict(
            points,
            labels,
            boxes,
            mask_input,
            multimask_output,
            return_logits=return_logits,
            img_idx=img_idx,
        )
        return _to_numpy(masks), _to_numpy(scores), _to_numpy(logits)

    def _prep_prompts(
        self,
        point_coords: Any | None,
        point_labels: Any | None,
        box: Any | None,
        mask_logits: Any | None,
        normalize_coords: bool,
        img_idx: int = -1,
    ) -> Prompts:
        """Convert the prompts of `predict` to tensors.

        Returns:
            Masks [N, 1, h, w], points [N, P, 2], labels [N, P] and boxes [N, 2, 2], each None if
            not given; coordinates in pixels of the model's input.
        """
        points = labels = boxes = masks = None
        if point_coords is not None:
            points, labels = read_points(point_coords, point_labels, self.device)
        if box is not None:
            boxes = read_boxes(box, self.device)
        if mask_logits is not None:
            size = self.model.sam_prompt_encoder.mask_input_size
            masks = read_masks(mask_logits, size, self.device)
        check_counts(points, boxes, masks)
        if self._orig_hw is None:
            raise StateError(NO_IMAGE)
        orig_hw = self._orig_hw[img_idx]
        if points is not None:
            points = self._transforms.transform_coords(points, normalize_coords, orig_hw)
        if boxes is not None:
            boxes = self._transforms.transform_boxes(boxes, normalize_coords, orig_hw)
        return masks, points, labels, boxes

    @torch.no_grad()
    def _predict(
        self,
        point_coords: torch.Tensor | None,
        point_labels: torch.Tensor | None,
        boxes: torch.Tensor | None = None,
        mask_input: torch.Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        img_idx: int = -1,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Segment N prompts from `_prep_prompts`.

        Returns:
            masks [N, C, H, W] bool, or logits if `return_logits`; scores [N, C]; low-resolution
            logits [N, C, h, w] within +-32.
        """
        low_res_masks, scores = self._decode(
            point_coords, point_labels, boxes, mask_input, multimask_output, img_idx
        )
        assert self._orig_hw is not None
        masks = self._transforms.postprocess_masks(low_res_masks, self._orig_hw[img_idx])
        if not return_logits:
            masks = masks > self.mask_threshold
        return masks, scores, low_res_masks.clamp(-32.0, 32.0)

    @torch.no_grad()
    def _decode(
        self,
        point_coords: torch.Tensor | None,
        point_labels: torch.Tensor | None,
        boxes: torch.Tensor | None = None,
        mask_input: torch.Tensor | None = None,
        multimask_output: bool = True,
        img_idx: int = -1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low-resolution logits [N, C, h, w], unclamped, and scores [N, C]; see
        `_predict`."""
        features = self._require_image()
        coords = [] if point_coords is None else [point_coords]
        labels = [] if point_labels is None or point_coords is None else [point_labels]
        if boxes is not None:
            # A box is two points with labels 2 and 3.
            corners = boxes.reshape(-1, 2, 2)
            coords.insert(0, corners)
            corner_labels = torch.tensor([[2, 3]], dtype=torch.int, device=boxes.device)
            labels.insert(0, corner_labels.expand(len(corners), -1))
        points = (torch.cat(coords, dim=1), torch.cat(labels, dim=1)) if coords else None

        prompts = mask_input if points is None else points[0]
        low_res_masks, scores, _, _ = decode_masks(
            self.model,
            features["image_embed"][img_idx].unsqueeze(0),
            [x[img_idx].unsqueeze(0) for x in features["high_res_feats"]],
            points,
            mask_input,
            multimask_output,
            repeat_image=prompts is not None and len(prompts) > 1,
        )
        return low_res_masks, scores

    def get_image_embedding(self) -> torch.Tensor:
        """Return the embedding [B, 256, h, w] of the images set; B is 1 after `set_image`.

        Raises:
            StateError: no image was set.
        """
        return self._require_image()["image_embed"]

    def _require_image(self) -> ImageFeatures:
        if not self._is_image_set or self._features is None:
            raise StateError(NO_IMAGE)
        return self._features


def _size(image: ImageLike) -> tuple[int, int]:
    """Return (H, W) of an image that `SAM2Transforms` has accepted."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[-2:]
    return height, width


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.squeeze(0).float().detach().cpu().numpy()
