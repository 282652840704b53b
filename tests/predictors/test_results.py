"""Results of a frame: all forms agree, and each is computed on its first read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from fastsam2 import SAM2VideoPredictor
from fastsam2.data.rle import encode_mask
from fastsam2.data.writers import label_image
from fastsam2.modeling.sam2_base import NO_OBJ_SCORE
from fastsam2.predictors import results
from fastsam2.predictors.results import FrameResult, HostResult, one_behind
from tests.predictors.nano import nano_predictor
from tests.support import frames_rgb

SIZE = (45, 70)


def result(non_overlap: bool = False) -> FrameResult:
    """Return a result of three overlapping objects, the last of them absent."""
    logits = 4 * torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.avg_pool2d(logits, 9, 1, 4)
    logits[2] = NO_OBJ_SCORE
    presence = torch.tensor([2.0, 0.0, -3.0])
    return FrameResult(
        7, [1, "a", 3], logits, presence, torch.rand(3), SIZE, non_overlap=non_overlap
    )


@pytest.mark.parametrize("non_overlap", [False, True])
def test_all_forms_agree(non_overlap: bool) -> None:
    found = result(non_overlap)
    logits = torch.nn.functional.interpolate(found.low_res_masks, SIZE, mode="bilinear")
    if non_overlap:
        best = logits.argmax(0, keepdim=True) == torch.arange(3)[:, None, None, None]
        logits = torch.where(best, logits, logits.clamp(max=-10))
    assert torch.equal(found.logits, logits)
    masks = found.logits[:, 0] > 0
    assert torch.equal(found.masks, masks)
    assert (masks[:2].sum(0) > 1).any() != non_overlap
    for rle, mask in zip(found.rle(), masks, strict=True):
        np.testing.assert_array_equal(coco.decode(rle), mask.numpy())
    for box, mask in zip(found.boxes.tolist(), masks, strict=True):
        y, x = np.nonzero(mask.numpy())
        assert box == ([x.min(), y.min(), x.max(), y.max()] if len(x) else [-1] * 4)
    assert found.areas.tolist() == masks.sum((1, 2)).tolist()
    highest = torch.where(logits.amax(0) > 0, logits.argmax(0) + 1, 0)[0]
    assert torch.equal(found.labels, highest.short())
    assert masks[0].any()
    assert not masks[2].any()
    torch.testing.assert_close(
        found.object_scores, torch.tensor([0.8808, 0.5, 0.0474]), atol=1e-4, rtol=0
    )


def test_no_objects() -> None:
    none = torch.zeros(0)
    found = FrameResult(0, [], torch.zeros(0, 1, 32, 32), none, none, SIZE)
    assert found.logits.shape == (0, 1, *SIZE)
    assert found.masks.shape == (0, *SIZE)
    assert found.boxes.shape == (0, 4)
    assert found.areas.shape == (0,)
    assert not found.labels.any()
    assert found.rle() == []
    assert found.object_scores.shape == (0,)


def test_forms_are_computed_on_first_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    found = result()
    with monkeypatch.context() as patch:
        patch.setattr(results.F, "interpolate", never)
        patch.setattr(results, "mask_output", never)
        assert len(found.object_scores) == 3
        with pytest.raises(AssertionError):
            found.logits  # noqa: B018
        with pytest.raises(AssertionError):
            found.masks  # noqa: B018
        with pytest.raises(AssertionError):
            found.rle()
    assert found.masks is found.masks
    with monkeypatch.context() as patch:
        # One pass serves all forms.
        patch.setattr(results.F, "interpolate", never)
        patch.setattr(results, "mask_output", never)
        assert (found.boxes[:2] >= 0).all()
        assert found.labels.any()
        assert len(found.rle()) == 3
        assert found.to_host().labels.any()


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    return nano_predictor()


def test_results_of_a_session(model: SAM2VideoPredictor) -> None:
    """The scores and predicted IoU are those of the frame's outputs."""
    state = model.init_state(frames_rgb(4))
    model.add_new_points_or_box(state, 0, "a", points=[[50, 60]], labels=[1])
    mask = np.zeros((120, 160), bool)
    mask[30:80, 40:100] = True
    model.add_new_mask(state, 0, 2, mask)
    for found in model.propagate(state):
        assert found.obj_ids is state["obj_ids"]
        assert found.video_size == (120, 160)
        for i, memory in state["output_dict_per_obj"].items():
            output = memory.output(found.frame_idx)
            assert torch.equal(found.object_score_logits[i], output["object_score_logits"][0, 0])
            assert torch.equal(found.predicted_iou[i], output.predicted_iou[0])
            assert torch.equal(found.low_res_masks[i], output["pred_masks"][0])
        if found.frame_idx == 0:
            assert found.predicted_iou[1] == 1  # a mask prompt is the output


@pytest.mark.parametrize("non_overlap", [False, True])
def test_on_the_host(non_overlap: bool) -> None:
    found = result(non_overlap)
    host = found.to_host()
    np.testing.assert_array_equal(host.masks, found.masks.numpy())
    np.testing.assert_array_equal(host.object_scores, found.object_scores.numpy())
    np.testing.assert_array_equal(host.boxes, found.boxes.numpy())
    np.testing.assert_array_equal(host.areas, found.areas.numpy())
    assert (host.masks.dtype, host.labels.dtype) == (np.bool_, np.int16)
    assert host.rle() == found.rle()
    assert host.encode() == [encode_mask(mask) for mask in host.masks]
    assert (host.frame_idx, host.obj_ids) == (7, [1, "a", 3])
    # Where objects overlap, the pixel goes to the one with the highest logit.
    logits = dict(enumerate(found.logits[:, 0].numpy(), 1))
    np.testing.assert_array_equal(host.labels, label_image(logits))


def test_no_objects_on_the_host() -> None:
    none = torch.zeros(0)
    host = FrameResult(0, [], torch.zeros(0, 1, 32, 32), none, none, SIZE).to_host()
    assert (host.masks.shape, host.labels.shape) == ((0, *SIZE), SIZE)
    assert not host.labels.any()


def test_each_frame_is_yielded_after_the_next_has_started() -> None:
    begun: list[int] = []

    def results(stop: int) -> Iterator[FrameResult]:
        for t in range(stop):
            begun.append(t)
            yield dataclasses.replace(result(), frame_idx=t)
        raise ValueError("frame is damaged")

    known: list[tuple[int | None, int]] = []

    def look(hosts: Iterable[HostResult | None]) -> None:
        known.extend((host and host.frame_idx, len(begun)) for host in hosts)

    with pytest.raises(ValueError, match="damaged"):
        look(one_behind(results(3)))
    assert known == [(None, 1), (0, 2), (1, 3), (2, 3)]  # results before the error are not lost
    look(one_behind(itertools.islice(results(9), 2)))
    assert known[4:] == [(None, 4), (0, 5), (1, 5)]
