"""The image predictor against the official one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.errors import FastSAM2Error, InputError, StateError
from fastsam2.sam2_image_predictor import SAM2ImagePredictor
from tests.predictors.image_cases import (
    assert_same_answers,
    models,
    official_parts,
    official_predictor,
    our_predictor,
    photograph,
)

H, W = 150, 210
MASK = np.random.default_rng(1).normal(size=(1, 64, 64)).astype(np.float32) * 5

PROMPTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "point": {"point_coords": np.array([[70.0, 60.0]]), "point_labels": np.array([1])},
    "points": {"point_coords": np.array([[70, 60], [20, 90]]), "point_labels": np.array([1, 0])},
    "lists": {"point_coords": [[70, 60], [20, 90]], "point_labels": [1, 0]},
    "tensors": {"point_coords": torch.tensor([[70, 60]]), "point_labels": torch.tensor([1])},
    "float labels": {"point_coords": [[70, 60]], "point_labels": [1.0]},
    "points of three": {
        "point_coords": np.arange(12).reshape(3, 2, 2) * 10,
        "point_labels": np.array([[1, 0], [1, 1], [0, 1]]),
    },
    "no points": {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)},
    "labels alone": {"point_labels": [1]},
    "box": {"box": np.array([20, 30, 120, 100])},
    "box in a row": {"box": np.array([[20, 30, 120, 100]])},
    "box as list": {"box": [20, 30, 120, 100]},
    "boxes": {"box": np.array([[20, 30, 120, 100], [5, 5, 60, 70], [90, 20, 200, 140]])},
    "boxes as corners": {"box": np.array([[[20, 30], [120, 100]], [[5, 5], [60, 70]]])},
    "box and points": {
        "box": np.array([20, 30, 120, 100]),
        "point_coords": np.array([[70, 60], [20, 90]]),
        "point_labels": np.array([1, 0]),
    },
    "boxes and points": {
        "box": np.array([[20, 30, 120, 100], [5, 5, 60, 70]]),
        "point_coords": np.array([[[70, 60]], [[20, 40]]]),
        "point_labels": np.array([[1], [0]]),
    },
    "mask": {"mask_input": MASK},
    "mask and point": {"mask_input": MASK, "point_coords": [[70, 60]], "point_labels": [1]},
    "one mask for boxes": {"mask_input": MASK, "box": [[20, 30, 120, 100], [5, 5, 60, 70]]},
    "masks for boxes": {
        "mask_input": np.stack([MASK, -MASK]),
        "box": [[20, 30, 120, 100], [5, 5, 60, 70]],
    },
    "normalized": {
        "point_coords": [[0.4, 0.3]],
        "point_labels": [1],
        "box": [0.1, 0.2, 0.6, 0.7],
        "normalize_coords": False,
    },
}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, SAM2ImagePredictor]:
    """Return both predictors with the same image set."""
    official, ours = official_predictor("sam2.1-tiny"), our_predictor("sam2.1-tiny")
    for predictor in (official, ours):
        predictor.set_image(photograph(H, W))
    return official, ours


@pytest.mark.slow
@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_predict(pair: Any, prompt: str, multimask_output: bool) -> None:
    official, ours = pair
    for return_logits in (False, True):
        keywords = {
            **PROMPTS[prompt],
            "multimask_output": multimask_output,
            "return_logits": return_logits,
        }
        assert_same_answers(ours.predict(**keywords), official.predict(**keywords))


def test_predict_takes_arguments_in_the_official_order(pair: Any) -> None:
    official, ours = pair
    arguments = (np.array([[0.4, 0.3]]), [1], [0.1, 0.2, 0.6, 0.7], MASK, False, True, False)
    assert_same_answers(ours.predict(*arguments), official.predict(*arguments))


def test_prompts_matter(pair: Any) -> None:
    """Otherwise agreement would prove nothing."""
    names = ("nothing", "point", "points", "no points", "box", "box and points", "mask")
    _, ours = pair
    logits = [ours.predict(**PROMPTS[name], return_logits=True)[0] for name in names]
    for i, first in enumerate(logits):
        assert all(np.abs(first - second).max() > 0.1 for second in logits[:i]), names[i]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2.1-tiny"])
def test_official_size(name: str) -> None:
    image = photograph(300, 500)
    prompts: dict[str, Any] = {
        "point_coords": [[200, 100]],
        "point_labels": [1],
        "box": [50, 20, 400, 280],
    }
    answers = []
    for predictor in (official_predictor(name, 1024), our_predictor(name, 1024)):
        predictor.set_image(image)
        answers.append([predictor.predict(**prompts, return_logits=r) for r in (False, True)])
        assert predictor.get_image_embedding().shape == (1, 256, 64, 64)
    for official, ours in zip(*answers, strict=True):
        assert_same_answers(ours, official)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2-small", "sam2.1-base_plus"])
def test_other_models(name: str) -> None:
    answers = []
    for predictor in (official_predictor(name), our_predictor(name)):
        predictor.set_image(photograph(H, W))
        answers.append(predictor.predict([[70, 60]], [1], return_logits=True))
    assert_same_answers(answers[1], answers[0])


def test_image_kinds() -> None:
    """An array, a PIL image and a tensor with the same pixels give the same features."""
    ours, image = our_predictor("sam2.1-tiny"), photograph(H, W)
    ours.set_image(image)
    expected = ours.get_image_embedding()
    pil = Image.fromarray(image)
    for same in (pil, pil.convert("RGBA"), torch.from_numpy(image).permute(2, 0, 1)):
        ours.set_image(same)
        assert ours._orig_hw == [(H, W)]
        assert torch.equal(ours.get_image_embedding(), expected)


BATCH = [photograph(H, W, 1), photograph(90, 100, 2), photograph(64, 200, 3)]
BATCH_PROMPTS: dict[str, dict[str, Any]] = {
    "points": {
        "point_coords_batch": [np.array([[30, 20]]), np.array([[9, 8], [50, 50]]), [[100, 30]]],
        "point_labels_batch": [np.array([1]), np.array([1, 0]), [1]],
    },
    "boxes": {
        "box_batch": [np.array([9, 8, 70, 60]), np.array([[5, 5, 50, 60], [1, 2, 30, 40]]), None]
    },
    "masks": {"mask_input_batch": [MASK, -MASK, None], "return_logits": True},
    "normalized": {"box_batch": [[0.1, 0.1, 0.5, 0.6]] * 3, "normalize_coords": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", BATCH_PROMPTS)
@pytest.mark.parametrize("multimask_output", [True, False])
def test_predict_batch(prompt: str, multimask_output: bool) -> None:
    answers = []
    for predictor in (official_predictor("sam2.1-tiny"), our_predictor("sam2.1-tiny")):
        predictor.set_image_batch(BATCH)
        answers.append(
            predictor.predict_batch(**BATCH_PROMPTS[prompt], multimask_output=multimask_output)
        )
    official, ours = answers
    assert isinstance(ours, tuple)
    assert all(isinstance(column, list) and len(column) == 3 for column in ours)
    for i in range(3):
        assert_same_answers([x[i] for x in ours], [x[i] for x in official])


def test_batch_equals_one_by_one() -> None:
    ours = our_predictor("sam2.1-tiny")
    ours.set_image_batch(BATCH)
    together = ours.predict_batch(**BATCH_PROMPTS["points"])
    for i, image in enumerate(BATCH):
        ours.set_image(image)
        points, labels = (
            BATCH_PROMPTS["points"][f"point_{x}_batch"][i] for x in ("coords", "labels")
        )
        assert_same_answers([x[i] for x in together], ours.predict(points, labels))


def test_predict_after_a_batch_takes_the_last_image() -> None:
    answers = []
    for predictor in (official_predictor("sam2.1-tiny"), our_predictor("sam2.1-tiny")):
        predictor.set_image_batch(BATCH)
        answers.append(predictor.predict(box=[20, 10, 90, 50]))
    assert answers[1][0].shape == (3, 64, 200)
    assert_same_answers(answers[1], answers[0])


def test_holes_and_specks() -> None:
    areas: dict[str, Any] = {"mask_threshold": 1.0, "max_hole_area": 30, "max_sprinkle_area": 9}
    predictors = [
        official_predictor("sam2.1-tiny", **areas),
        our_predictor("sam2.1-tiny", **areas),
        our_predictor("sam2.1-tiny", mask_threshold=1.0),
    ]
    with official_parts():
        answers = []
        for predictor in predictors:
            predictor.set_image(photograph(H, W))
            answers.append(predictor.predict([[70, 60]], [1]))
    official, ours, raw = answers
    assert_same_answers(ours, official)
    assert np.mean(ours[0] != raw[0]) > 0.01


@pytest.mark.slow
def test_video_predictor_as_model() -> None:
    model = build_sam2_video_predictor(
        "sam2.1-tiny", device="cpu", hydra_overrides_extra=["++model.image_size=256"]
    )
    model.load_state_dict(models("sam2.1-tiny")[0].state_dict())
    ours, expected = SAM2ImagePredictor(model), our_predictor("sam2.1-tiny")
    for predictor in (ours, expected):
        predictor.set_image(photograph(H, W))
    assert_same_answers(ours.predict([[70, 60]], [1]), expected.predict([[70, 60]], [1]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_model(dtype: torch.dtype) -> None:
    model = copy.deepcopy(models("sam2.1-tiny")[1]).to(dtype)
    ours, expected = SAM2ImagePredictor(model), our_predictor("sam2.1-tiny")
    for predictor in (ours, expected):
        predictor.set_image(photograph(H, W))
    assert ours.get_image_embedding().dtype == dtype
    prompts: dict[str, Any] = {"point_coords": [[70, 60]], "point_labels": [1], "mask_input": MASK}
    low, high = (p.predict(**prompts, return_logits=True) for p in (ours, expected))
    for a, e in zip(low, high, strict=True):
        assert a.shape == e.shape
        assert a.dtype == np.float32
        assert np.abs(a - e).mean() < 0.1 * max(1.0, e.std())


def test_state_and_members() -> None:
    ours = our_predictor("sam2.1-tiny", unknown="ignored")
    assert (ours._is_image_set, ours._is_batch) == (False, False)
    assert ours._features is None
    assert ours._orig_hw is None
    assert ours.device == torch.device("cpu")
    assert ours._bb_feat_sizes == [(64, 64), (32, 32), (16, 16)]
    ours.set_image(photograph(H, W))
    assert (ours._is_image_set, ours._is_batch) == (True, False)
    assert ours._features is not None
    assert ours._features["image_embed"].shape == (1, 256, 16, 16)
    assert [x.shape for x in ours._features["high_res_feats"]] == [
        (1, 32, 64, 64),
        (1, 64, 32, 32),
    ]
    ours.set_image_batch(BATCH)
    assert ours._is_batch
    assert ours._orig_hw == [(H, W), (90, 100), (64, 200)]
    ours.reset_predictor()
    assert not ours._is_image_set
    assert not ours._is_batch
    assert ours._features is None


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": [[1, 2]]}, "without point_labels"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, r"\(2,\).*\(1, 2\)"),
        ({"point_coords": [1, 2], "point_labels": [1]}, r"\(2,\)"),
        ({"point_coords": [[1, 2, 3]], "point_labels": [1]}, r"\(1, 3\)"),
        ({"point_coords": [[1, np.nan]], "point_labels": [1]}, "finite.*nan"),
        ({"point_coords": [[1, 2]], "point_labels": [np.nan]}, "finite.*nan"),
        ({"point_coords": [[1], [2, 3]], "point_labels": [1, 1]}, "numbers"),
        ({"point_coords": "centre", "point_labels": [1]}, "centre"),
        ({"box": [1, 2, 3]}, r"\(3,\)"),
        ({"box": np.zeros((0, 4))}, r"\(0, 4\)"),
        ({"box": np.zeros((2, 5))}, r"\(2, 5\)"),
        ({"box": [0, 0, np.inf, 3]}, "finite.*inf"),
        ({"box": np.ones((2, 4)), "point_coords": [[1, 2]], "point_labels": [1]}, "2"),
        ({"mask_input": np.zeros((1, 256, 256))}, r"64.*\(1, 256, 256\)"),
        ({"mask_input": np.zeros((3, 64, 64))}, "got 3"),
        ({"mask_input": np.full((1, 64, 64), np.nan)}, "finite"),
        ({"mask_input": np.zeros((2, 1, 64, 64)), "box": [1, 2, 3, 4]}, "masks for 2"),
    ],
)
def test_bad_prompts(pair: Any, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair[1].predict(**prompt)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (np.zeros((5, 5), np.uint8), r"\(5, 5\)"),
        (np.zeros((5, 5, 4), np.uint8), r"\(5, 5, 4\)"),
        (np.zeros((5, 5, 3), np.int64), "int64"),
        (torch.zeros(5, 5, 3), r"\(5, 5, 3\)"),
        (Image.new("F", (5, 5)), "'F'"),
        ("photo.jpg", "str"),
        (None, "NoneType"),
    ],
)
def test_bad_images(image: Any, message: str) -> None:
    ours = our_predictor("sam2.1-tiny")
    with pytest.raises(InputError, match=message):
        ours.set_image(image)
    with pytest.raises(InputError, match=message):
        ours.set_image_batch([photograph(9, 9), image])
    assert not ours._is_image_set


def test_bad_order() -> None:
    ours = our_predictor("sam2.1-tiny")
    for call in (ours.predict, ours.predict_batch, ours.get_image_embedding):
        with pytest.raises(StateError, match="no image is set"):
            call()
    with pytest.raises(StateError, match="no image is set"):
        ours._prep_prompts([[1, 2]], [1], None, None, True)
    with pytest.raises(InputError, match=r"\[\]"):
        ours.set_image_batch([])
    with pytest.raises(InputError, match="array"):
        ours.set_image_batch(photograph(9, 9))  # type: ignore[arg-type]
    ours.set_image(photograph(9, 9))
    with pytest.raises(FastSAM2Error, match="set_image_batch"):
        ours.predict_batch()
    ours.set_image_batch(BATCH)
    with pytest.raises(InputError, match=r"3 images.*boxes, got 1"):
        ours.predict_batch(box_batch=[[1, 2, 3, 4]])
