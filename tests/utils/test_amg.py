"""Helpers of the mask generator against the official ones, pycocotools and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from fastsam2.errors import InputError
from fastsam2.utils import amg
from tests.predictors.image_cases import greedy_nms, official_parts

# This imports torchvision, which needs what `tests.reference` defines.
# isort: split
import sam2.utils.amg as official


def random_masks(n: int = 9, height: int = 21, width: int = 34) -> torch.Tensor:
    noise = torch.rand(n, height, width, generator=torch.Generator().manual_seed(0))
    masks = noise < torch.linspace(0, 1, n)[:, None, None]
    masks[-1] = True
    return masks


def random_boxes(n: int, seed: int, spread: float = 60.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = (torch.rand(n, 2, generator=generator) * spread).round()
    size = (torch.rand(n, 2, generator=generator) * 30).round()
    return torch.cat([corner, corner + size], dim=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 0.8, 1.0])
def test_nms(seed: int, threshold: float) -> None:
    boxes = random_boxes(150, seed, spread=12.0)
    # Few distinct scores and sizes, for ties and for overlaps that equal the threshold.
    scores = torch.randint(0, 12, (150,), generator=torch.Generator().manual_seed(seed)) / 12
    expected = greedy_nms(boxes, scores, torch.zeros(150), threshold)
    assert torch.equal(amg.box_nms(boxes, scores, threshold), expected)
    assert threshold == 1.0 or len(expected) < 150


def test_nms_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_boxes(200, 7), torch.rand(200)
    whole = amg.box_nms(boxes, scores, 0.4)
    monkeypatch.setattr(amg, "NMS_BLOCK", 16)
    assert torch.equal(amg.box_nms(boxes, scores, 0.4), whole)


def test_nms_of_a_chain_of_boxes() -> None:
    """Each box suppresses the next, so that every second one stays."""
    start = torch.arange(50.0) * 3
    boxes = torch.stack([start, torch.zeros(50), start + 10, torch.ones(50)], dim=1)
    kept = amg.box_nms(boxes, torch.linspace(1, 0, 50), 0.5)
    assert kept.tolist() == list(range(0, 50, 2))


@pytest.mark.parametrize(
    ("overlap", "threshold", "n_kept"), [(0.8, 0.8, 1), (0.7, 0.7, 2), (0.5, 0.5, 2)]
)
def test_nms_at_the_threshold(overlap: float, threshold: float, n_kept: int) -> None:
    """The IoU is in float32, the threshold in float64, as in torchvision."""
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, 10 * overlap, 1]])
    assert len(amg.box_nms(boxes, torch.tensor([1.0, 0.5]), threshold)) == n_kept
    assert len(greedy_nms(boxes, torch.tensor([1.0, 0.5]), torch.zeros(2), threshold)) == n_kept


def test_nms_of_nothing_and_of_points() -> None:
    assert amg.box_nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert amg.box_nms(torch.zeros(2, 4), torch.ones(2), 0.5).tolist() == [0, 1]


def test_rle() -> None:
    masks = random_masks()
    rles = amg.mask_to_rle_pytorch(masks)
    assert rles == official.mask_to_rle_pytorch(masks)
    for rle, mask in zip(rles, masks.numpy(), strict=True):
        np.testing.assert_array_equal(amg.rle_to_mask(rle), mask)
        assert amg.rle_to_mask(rle).strides == official.rle_to_mask(rle).strides
        assert amg.area_from_rle(rle) == mask.sum()
        assert isinstance(amg.area_from_rle(rle), int)
        encoded = amg.coco_encode_rle(rle)
        assert encoded == official.coco_encode_rle(rle)
        np.testing.assert_array_equal(coco.decode(encoded), mask)
    assert amg.mask_to_rle_pytorch(masks[:0]) == []


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_rle_of_any_masks(masks: np.ndarray) -> None:
    rles = amg.mask_to_rle_pytorch(torch.from_numpy(masks))
    assert rles == official.mask_to_rle_pytorch(torch.from_numpy(masks))
    for rle, mask in zip(rles, masks, strict=True):
        np.testing.assert_array_equal(amg.rle_to_mask(rle), mask)


def test_boxes_of_masks() -> None:
    masks = random_masks(12).view(3, 4, 21, 34)
    for some in (masks, masks[0], masks[0, 2], masks[1, 1]):
        actual, expected = amg.batched_mask_to_box(some), official.batched_mask_to_box(some)
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype
    assert amg.batched_mask_to_box(masks[0, 0]).tolist() == [0, 0, 0, 0]
    assert amg.batched_mask_to_box(masks[:0]).shape == (0, 4, 4)


def test_stability() -> None:
    logits = torch.randn(5, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 3
    logits[0, 0] = -100
    for threshold, offset in ((0.0, 1.0), (0.5, 0.25)):
        actual = amg.calculate_stability_score(logits, threshold, offset)
        expected = official.calculate_stability_score(logits, threshold, offset)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        assert actual.shape == (5, 3)


@pytest.mark.parametrize("size", [(480, 640), (641, 333), (7, 9)])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_grids_and_crops(size: tuple[int, int], layers: int) -> None:
    for ratio in (0.0, 512 / 1500, 0.9):
        assert amg.generate_crop_boxes(size, layers, ratio) == official.generate_crop_boxes(
            size, layers, ratio
        )
    for scale in (1, 2):
        grids = amg.build_all_layer_point_grids(16, layers, scale)
        for a, e in zip(
            grids, official.build_all_layer_point_grids(16, layers, scale), strict=True
        ):
            np.testing.assert_array_equal(a, e)


def test_crop_to_image() -> None:
    crop, image = [10, 20, 110, 90], [0, 0, 200, 150]
    boxes = random_boxes(40, 1).long()
    points = torch.rand(6, 2) * 50
    masks = random_masks(3, 70, 100)
    assert torch.equal(
        amg.is_box_near_crop_edge(boxes, crop, image),
        official.is_box_near_crop_edge(boxes, crop, image),
    )
    assert 0 < amg.is_box_near_crop_edge(boxes, crop, image).sum() < 40
    for shape in ((-1, 4), (-1, 5, 4)):
        some = boxes.view(shape)
        assert torch.equal(
            amg.uncrop_boxes_xyxy(some, crop), official.uncrop_boxes_xyxy(some, crop)
        )
    for shape in ((-1, 2), (-1, 3, 2)):
        some = points.view(shape)
        assert torch.equal(amg.uncrop_points(some, crop), official.uncrop_points(some, crop))
    for box in (crop, [0, 0, 100, 70]):
        size = (150, 200) if box is crop else (70, 100)
        actual = amg.uncrop_masks(masks, box, *size)
        assert torch.equal(actual, official.uncrop_masks(masks, box, *size))
        assert actual.dtype == torch.bool


def test_box_formats() -> None:
    boxes: list[Any] = [[1, 2, 5, 9], np.array([1.0, 2.0, 5.0, 9.0]), torch.tensor([1, 2, 5, 9])]
    for box in boxes:
        expected = official.box_xyxy_to_xywh(box)
        actual = amg.box_xyxy_to_xywh(box)
        assert list(actual) == list(expected) == [1, 2, 4, 7]
        assert type(actual) is type(box)
        assert list(box) == [1, 2, 5, 9]


def test_batches() -> None:
    items, array = list(range(7)), np.arange(7)
    batches = list(amg.batch_iterator(3, items, array))
    assert [batch[0] for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch[1].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(amg.batch_iterator(3, [])) == []
    with pytest.raises(InputError, match=r"\[7, 2\]"):
        list(amg.batch_iterator(3, items, [1, 2]))


def test_mask_data() -> None:
    """Equals the official record, for all three kinds of column and both kinds of filter."""
    for keep in (torch.tensor([True, False, True, True]), torch.tensor([3, 0])):
        records = []
        for module in (official, amg):
            data = module.MaskData()
            for start in (0, 2):
                index = torch.arange(start, start + 2)
                data.cat(
                    module.MaskData(t=index / 2, a=index.numpy(), l=[{"i": int(i)} for i in index])
                )
            data["extra"] = [1, 2, 3, 4]
            del data["extra"]
            data.filter(keep)
            data.to_numpy()
            records.append(dict(data.items()))
        expected, actual = records
        assert list(actual) == list(expected) == ["t", "a", "l"]
        assert actual["l"] == expected["l"]
        for key in ("t", "a"):
            np.testing.assert_array_equal(actual[key], expected[key])
            assert actual[key].dtype == expected[key].dtype
    with pytest.raises(InputError, match=r"columns must be .* got int"):
        amg.MaskData(columns=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["holes", "islands"])
@pytest.mark.parametrize("threshold", [1, 4, 30, 1000])
def test_remove_small_regions(mode: str, threshold: float) -> None:
    n_changed = 0
    for mask in random_masks(12).numpy():
        with official_parts():
            expected, expected_changed = official.remove_small_regions(mask, threshold, mode)
        kept = mask.copy()
        actual, changed = amg.remove_small_regions(mask, threshold, mode)  # type: ignore[arg-type]
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(mask, kept)
        assert changed is expected_changed
        n_changed += changed
    assert (n_changed > 0) == (threshold > 1)
    with pytest.raises(InputError, match="'specks'"):
        amg.remove_small_regions(mask, threshold, "specks")  # type: ignore[arg-type]
