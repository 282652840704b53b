"""Transforms of images and prompts to the model's input, and of its logits to the image's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from fastsam2.data.preprocess import IMAGE_MEAN, IMAGE_STD
from fastsam2.engine.postprocess import small_regions
from fastsam2.errors import InputError

__all__ = ["ImageLike", "SAM2Transforms", "image_to_tensor"]

ImageLike = np.ndarray | Image.Image | torch.Tensor


def image_to_tensor(image: ImageLike) -> torch.Tensor:
    """Convert an image to a [3, H, W] tensor, without a copy if possible.

    Args:
        image: [H, W, 3] uint8 or float array, PIL image (other modes are converted to RGB), or
            [3, H, W] uint8 or float tensor.

    Raises:
        InputError: another type, shape or dtype, or an image without pixels.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise InputError(f"a PIL image of mode {image.mode!r} has no 8-bit RGB form")
        image = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if isinstance(image, np.ndarray):
        layout, shape = "[H, W, 3]", image.shape
        good = image.ndim == 3 and shape[2] == 3
        dtype_good = image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)
    elif isinstance(image, torch.Tensor):
        layout, shape = "[3, H, W]", tuple(image.shape)
        good = image.ndim == 3 and shape[0] == 3
        dtype_good = image.dtype == torch.uint8 or image.is_floating_point()
    else:
        raise InputError(f"expected an array, PIL image or tensor, got {type(image).__name__}")
    if not good or 0 in shape:
        raise InputError(f"expected an RGB image {layout} with pixels, got shape {shape}")
    if not dtype_good:
        raise InputError(f"expected a uint8 or float image, got {image.dtype}")
    if isinstance(image, torch.Tensor):
        return image
    # PIL arrays are read-only and flipped ones have negative strides; torch takes neither.
    ready = image.flags.writeable and min(image.strides) > 0 and image.dtype.isnative
    return torch.from_numpy(image if ready else np.array(image)).permute(2, 0, 1)


class SAM2Transforms(nn.Module):
    """Resizes and normalises images, scales prompts, and resizes masks to the image's size.

    Images are resized on the device of this module.

    Args:
        resolution: side R of the model's square input, in pixels.
        mask_threshold: logits above it are foreground.
        max_hole_area: fill holes up to this area, in low-resolution pixels.
        max_sprinkle_area: remove specks up to this area, in low-resolution pixels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        resolution: int,
        mask_threshold: float,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        for name, rgb in (("mean", IMAGE_MEAN), ("std", IMAGE_STD)):
            self.register_buffer(name, torch.tensor(rgb).view(3, 1, 1), persistent=False)

    def forward(self, x: ImageLike) -> torch.Tensor:
        """Transform one image (see `image_to_tensor`) to float32 [3, R, R].

        Float images are not rescaled. Equals torchvision's ToTensor, Resize (bilinear, antialiased)
        and Normalize.
        """
        image = image_to_tensor(x)
        if image.dtype == torch.uint8:  # copied to the device as bytes
            image = image.to(self.mean.device).float() / 255
        else:
            image = image.float().to(self.mean.device)
        size = (self.resolution, self.resolution)
        image = F.interpolate(
            image[None], size, mode="bilinear", align_corners=False, antialias=True
        )[0]
        return (image - self.mean) / self.std

    def forward_batch(self, img_list: Sequence[ImageLike]) -> torch.Tensor:
        """Transform images of any sizes to float32 [B, 3, R, R]."""
        return torch.stack([self(image) for image in img_list])

    def transform_coords(
        self,
        coords: torch.Tensor,
        normalize: bool = False,
        orig_hw: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Scale (x, y) in the last dimension to pixels of the model's input.

        Args:
            coords: [..., 2], in pixels of the image if `normalize`, else in [0, 1].
            orig_hw: (H, W) of the image, required if `normalize`.

        Raises:
            InputError: `normalize` without `orig_hw`.
        """
        if normalize:
            if orig_hw is None:
                raise InputError("orig_hw must be given to normalize coordinates")
            height, width = orig_hw
            coords = coords / torch.tensor([width, height], dtype=coords.dtype).to(coords.device)
        return coords * self.resolution

    def transform_boxes(
        self,
        boxes: torch.Tensor,
        normalize: bool = False,
        orig_hw: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Scale boxes [..., 4] as (x0, y0, x1, y1) to corners [B, 2, 2]; see `transform_coords`."""
        return self.transform_coords(boxes.reshape(-1, 2, 2), normalize, orig_hw)

    def postprocess_masks(self, masks: torch.Tensor, orig_hw: Sequence[int]) -> torch.Tensor:
        """Remove holes and specks from logits [B, C, h, w] and resize them to float32
        [B, C, H, W]."""
        masks = cleaned = masks.float()
        # Holes and specks are both found in the input: a speck inside a filled hole becomes a hole.
        if self.max_hole_area > 0:
            hole = small_regions(masks <= self.mask_threshold, self.max_hole_area)
            cleaned = torch.where(hole, self.mask_threshold + 10.0, cleaned)
        if self.max_sprinkle_area > 0:
            speck = small_regions(masks > self.mask_threshold, self.max_sprinkle_area)
            cleaned = torch.where(speck, self.mask_threshold - 10.0, cleaned)
        return F.interpolate(cleaned, tuple(orig_hw), mode="bilinear", align_corners=False)
