"""The automatic mask generator against the official one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from fastsam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from fastsam2.errors import InputError
from fastsam2.utils.amg import MaskData, mask_to_rle_pytorch
from tests.predictors.image_cases import (
    models,
    official_generator,
    official_parts,
    photograph,
)

OFFICIAL, OURS = models("sam2.1-tiny", image_size=128)
IMAGE = photograph(150, 210)

# Masks of random weights are scattered: with a high threshold they differ enough to be distinct.
LENIENT: dict[str, Any] = {
    "points_per_side": 4,
    "pred_iou_thresh": 0.13,
    "stability_score_thresh": 0.1,
    "stability_score_offset": 0.5,
    "mask_threshold": 5.0,
    "box_nms_thresh": 0.9,
}
# The single mask of a prompt needs an even higher one.
SINGLE: dict[str, Any] = {
    "mask_threshold": 22.0,
    "stability_score_thresh": 0.05,
    "box_nms_thresh": 0.99,
}

KEYS = [
    "segmentation",
    "area",
    "bbox",
    "predicted_iou",
    "point_coords",
    "stability_score",
    "crop_box",
]


def generate(
    model: Any = OFFICIAL, image: np.ndarray = IMAGE, **keywords: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run the official generator and ours, by default both on the official model."""
    keywords = {**LENIENT, **keywords}
    with official_parts():
        expected = official_generator(OFFICIAL, **keywords).generate(image)
    return expected, SAM2AutomaticMaskGenerator(model, **keywords).generate(image)


def assert_same_records(
    actual: list[dict[str, Any]], expected: list[dict[str, Any]], at_least: int
) -> None:
    assert len(expected) >= at_least
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert list(a) == list(e) == KEYS
        for key in ("area", "bbox", "point_coords", "crop_box"):
            assert a[key] == e[key], key
            assert type(a[key]) is type(e[key])
        for key in ("predicted_iou", "stability_score"):
            assert isinstance(a[key], float)
            assert a[key] == pytest.approx(e[key], abs=1e-5, nan_ok=True)
        if isinstance(e["segmentation"], dict):
            assert a["segmentation"] == e["segmentation"]
        else:
            assert a["segmentation"].dtype == e["segmentation"].dtype == bool
            np.testing.assert_array_equal(a["segmentation"], e["segmentation"])


@pytest.mark.parametrize(
    ("keywords", "at_least"),
    [
        ({"points_per_side": 6}, 15),
        ({"points_per_batch": 5}, 8),
        ({"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.7}, 10),
        ({"multimask_output": False, **SINGLE}, 8),
        ({"points_per_side": 3, "use_m2m": True, **SINGLE}, 15),
        ({"points_per_side": None, "point_grids": [np.array([[0.2, 0.3], [0.9, 0.6]])]}, 2),
    ],
)
def test_generate(keywords: dict[str, Any], at_least: int) -> None:
    expected, actual = generate(**keywords)
    assert_same_records(actual, expected, at_least)


def test_generate_on_our_model() -> None:
    """Rounding differs between the models: a pixel of a mask may differ."""
    expected, actual = generate(model=OURS)
    assert len(expected) >= 10
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a["point_coords"] == e["point_coords"]
        assert np.sum(a["segmentation"] != e["segmentation"]) <= 5
        assert a["area"] == a["segmentation"].sum()
        for key in ("predicted_iou", "stability_score"):
            assert a[key] == pytest.approx(e[key], abs=1e-2)


def test_crops() -> None:
    expected, actual = generate(
        image=photograph(200, 280),
        points_per_side=3,
        crop_n_layers=1,
        crop_nms_thresh=0.8,
        mask_threshold=10.0,
        stability_score_thresh=0.02,
    )
    assert_same_records(actual, expected, at_least=8)
    assert len({tuple(record["crop_box"]) for record in actual}) >= 2


@pytest.mark.parametrize("output_mode", ["uncompressed_rle", "coco_rle"])
def test_output_modes(output_mode: str) -> None:
    expected, actual = generate(output_mode=output_mode)
    assert_same_records(actual, expected, at_least=8)
    if output_mode == "coco_rle":
        assert coco.decode(actual[0]["segmentation"]).sum() == actual[0]["area"]


def test_min_mask_region_area() -> None:
    cleaned: dict[str, Any] = {"min_mask_region_area": 25, "mask_threshold": 0.0}
    cleaned.update(pred_iou_thresh=0.0, box_nms_thresh=0.99)
    expected, actual = generate(**cleaned)
    assert_same_records(actual, expected, at_least=8)
    _, raw = generate(**{**cleaned, "min_mask_region_area": 0})
    assert [record["area"] for record in actual] != [record["area"] for record in raw]


def test_nothing_found() -> None:
    hopeless: list[dict[str, Any]] = [{"pred_iou_thresh": 0.9999}, {"stability_score_thresh": 1.0}]
    for keywords in hopeless:
        expected, actual = generate(**keywords)
        assert actual == expected == []
    crops = SAM2AutomaticMaskGenerator(
        OURS, points_per_side=2, pred_iou_thresh=0.9999, crop_n_layers=1
    )
    assert crops.generate(IMAGE) == []


def test_postprocess_small_regions() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = (
        torch.rand(12, 40, 50, generator=generator) < torch.linspace(0.02, 0.98, 12)[:, None, None]
    )
    masks[3] = False
    masks[3, 5:20, 5:20] = True
    masks[4] = masks[3]
    masks[4, 30, 40] = True

    def run(cls: Any) -> MaskData:
        boxes = np.zeros((12, 4), dtype=np.float32)
        data = MaskData(rles=mask_to_rle_pytorch(masks), boxes=boxes, index=torch.arange(12))
        return cls.postprocess_small_regions(data, 12, 0.95)

    with official_parts():
        expected = run(type(official_generator(OFFICIAL)))
    actual = run(SAM2AutomaticMaskGenerator)
    assert 3 <= len(expected["rles"]) < 12
    assert actual["rles"] == expected["rles"]
    assert torch.equal(actual["index"], expected["index"])
    np.testing.assert_array_equal(actual["boxes"], expected["boxes"])
    empty = MaskData(rles=[])
    assert SAM2AutomaticMaskGenerator.postprocess_small_regions(empty, 1, 0.5) is empty


def test_members() -> None:
    generator = SAM2AutomaticMaskGenerator(
        OURS,
        points_per_side=2,
        unknown="ignored",
        crop_n_layers=1,
        min_mask_region_area=7,
    )
    assert generator.predictor.model is OURS
    assert generator.predictor._transforms.max_hole_area == 7
    assert [len(grid) for grid in generator.point_grids] == [4, 4]
    defaults = SAM2AutomaticMaskGenerator(OURS)
    official = official_generator(OFFICIAL)
    for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "points_per_batch"):
        assert getattr(defaults, name) == getattr(official, name)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"points_per_side": None}, "points_per_side=None and no point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "points_per_side=32 and 1 point_grids"),
        ({"output_mode": "polygon"}, "'polygon'"),
        ({"points_per_batch": 0}, "points_per_batch must be a whole number from 1 on, not 0"),
        ({"points_per_side": 0}, "points per side must be a whole number from 1 on, not 0"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1},
            "needs 2 point_grids, got 1",
        ),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SAM2AutomaticMaskGenerator(OURS, **keywords)


def test_crops_of_an_image_with_fewer_pixels() -> None:
    generator = SAM2AutomaticMaskGenerator(OURS, points_per_side=1, crop_n_layers=1)
    generator.generate(np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), "x.jpg"]
)
def test_bad_image(image: Any) -> None:
    with pytest.raises(InputError, match=r"\(4, 4|str"):
        SAM2AutomaticMaskGenerator(OURS, points_per_side=1).generate(image)
