"""Uses of the image predictor beyond its public methods, as existing programs make them.

Each client is written in the style of such programs, runs on `sam2` and on fastsam2, and must have
the same outcome on both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from fastsam2.sam2_image_predictor import SAM2ImagePredictor
from fastsam2.utils.transforms import SAM2Transforms
from tests.predictors.image_cases import let_work, models, photograph

# These import torchvision, which needs what `tests.reference` defines.
# isort: split
from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialPredictor
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

IMAGE = photograph(150, 210)
Outcome = list[np.ndarray]
Client = Callable[[Any, Any, Any], Outcome]


#: The official constructor parses Python, which CPython 3.11 cannot do in several threads
#: (github.com/python/cpython/issues/106905).
PARSING = threading.Lock()


class WorkingOfficialPredictor(OfficialPredictor):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with PARSING:
            super().__init__(*args, **kwargs)
        let_work(self, self.model.image_size)


def cached_embedding(predictor_class: Any, model: Any, _: Any) -> Outcome:
    """A server (roboflow) embeds with one predictor and predicts with another, then refines."""
    first = predictor_class(model)
    first.set_image(IMAGE)
    cache = {
        "image_embed": first._features["image_embed"].clone(),
        "high_res_feats": [x.clone() for x in first._features["high_res_feats"]],
    }
    size = first._orig_hw[0]
    first.reset_predictor()

    predictor = predictor_class(model)
    predictor._is_image_set = True
    predictor._features = cache
    predictor._orig_hw = [size]
    predictor._is_batch = False
    masks, scores, low_res = predictor.predict(
        point_coords=np.array([[70, 60]]),
        point_labels=np.array([1]),
        mask_input=None,
        multimask_output=True,
        return_logits=True,
        normalize_coords=True,
    )
    best = np.argmax(scores)
    refined, _, low_res = predictor.predict(
        point_coords=np.array([[70, 60], [10, 10]]),
        point_labels=np.array([1, 0]),
        mask_input=low_res[best, :, :][None, :, :],
        multimask_output=False,
        return_logits=True,
    )
    return [masks > predictor.mask_threshold, scores, refined, low_res]


def fine_tuning(predictor_class: Any, model: Any, _: Any) -> Outcome:
    """A training loop (sagieppel, supervisely) runs the two heads itself, with gradients."""
    predictor = predictor_class(model)
    predictor.set_image(IMAGE)
    input_point = np.array([[[70, 60]], [[150, 100]]])
    input_label = np.ones([2, 1])
    mask_input, unnorm_coords, labels, unnorm_box = predictor._prep_prompts(
        input_point, input_label, box=None, mask_logits=None, normalize_coords=True
    )
    assert mask_input is None
    assert unnorm_box is None
    sparse_embeddings, dense_embeddings = predictor.model.sam_prompt_encoder(
        points=(unnorm_coords, labels), boxes=None, masks=None
    )
    high_res_features = [
        feat_level[-1].unsqueeze(0) for feat_level in predictor._features["high_res_feats"]
    ]
    low_res_masks, scores, _, _ = predictor.model.sam_mask_decoder(
        image_embeddings=predictor._features["image_embed"][-1].unsqueeze(0),
        image_pe=predictor.model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse_embeddings,
        dense_prompt_embeddings=dense_embeddings,
        multimask_output=True,
        repeat_image=unnorm_coords.shape[0] > 1,
        high_res_features=high_res_features,
    )
    masks = predictor._transforms.postprocess_masks(low_res_masks, predictor._orig_hw[-1])
    probability = torch.sigmoid(masks[:, 0])
    target = torch.zeros_like(probability)
    target[:, 40:90, 50:120] = 1
    entropy = -target * torch.log(probability + 1e-5)
    entropy -= (1 - target) * torch.log(1 - probability + 1e-5)
    intersection = (target * (probability > 0.5)).sum(1).sum(1)
    union = target.sum(1).sum(1) + (probability > 0.5).sum(1).sum(1) - intersection
    loss = entropy.mean() + 0.05 * torch.abs(scores[:, 0] - intersection / union).mean()
    predictor.model.zero_grad()
    loss.backward()
    gradients = {
        name: parameter.grad.numpy().copy()
        for name, parameter in sorted(predictor.model.named_parameters())
        if parameter.grad is not None and parameter.grad.abs().max() > 1e-6
    }
    predictor.model.zero_grad()
    assert all(x.startswith(("sam_mask_decoder", "sam_prompt_encoder")) for x in gradients)
    assert any(x.startswith("sam_prompt_encoder.point_embeddings") for x in gradients)
    assert len(gradients) > 80
    return [loss.detach().numpy(), *(x / np.abs(x).max() for x in gradients.values())]


def batched_fine_tuning(predictor_class: Any, model: Any, _: Any) -> Outcome:
    """The same over a batch of images (sagieppel's second version)."""
    predictor = predictor_class(model)
    predictor.set_image_batch([IMAGE, photograph(150, 210, 1)])
    _, unnorm_coords, labels, _ = predictor._prep_prompts(
        np.array([[[70, 60]], [[150, 100]]]), np.ones([2, 1]), None, None, normalize_coords=True
    )
    with torch.no_grad():
        sparse, dense = predictor.model.sam_prompt_encoder(
            points=(unnorm_coords, labels), boxes=None, masks=None
        )
        low_res_masks, scores, _, _ = predictor.model.sam_mask_decoder(
            image_embeddings=predictor._features["image_embed"],
            image_pe=predictor.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=predictor._features["high_res_feats"],
        )
    masks = predictor._transforms.postprocess_masks(low_res_masks, predictor._orig_hw[-1])
    return [masks.numpy(), scores.numpy()]


def boxes_of_a_dataset(predictor_class: Any, model: Any, _: Any) -> Outcome:
    """A dataset tool (fiftyone) sends all detections of an image, as [1, N, 4]."""
    predictor = predictor_class(model)
    predictor.set_image(IMAGE)
    height, width = IMAGE.shape[:2]
    relative = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.1, 0.9, 0.8], [0.2, 0.2, 0.3, 0.9]])
    boxes = np.round(relative * [width, height, width, height]).astype(int)
    masks, scores, _ = predictor.predict(
        point_coords=None, point_labels=None, box=boxes[None, :], multimask_output=False
    )
    assert masks.ndim == 4
    tensor = torch.tensor(boxes, dtype=torch.float, device=predictor.device)
    transformed = predictor._transforms.transform_boxes(
        tensor, normalize=True, orig_hw=predictor._orig_hw[0]
    )
    same, more_scores, _ = predictor._predict(
        point_coords=None,
        point_labels=None,
        boxes=transformed,
        multimask_output=False,
        return_logits=False,
        img_idx=-1,
    )
    return [masks, scores, same.numpy(), more_scores.numpy()]


def features_by_hand(predictor_class: Any, model: Any, _: Any) -> Outcome:
    """A subclass (onnxruntime) has its own encoder and decoder between the official ends."""

    class Predictor(predictor_class):  # type: ignore[misc]
        n_decoded = 0

        @torch.no_grad()
        def set_image(self, image: np.ndarray) -> None:
            self.reset_predictor()
            self._orig_hw = [image.shape[:2]]
            input_image = self._transforms(image)[None, ...].to(self.device)
            backbone_out = self.model.forward_image(input_image)
            _, vision_feats, _, _ = self.model._prepare_backbone_features(backbone_out)
            if self.model.directly_add_no_mem_embed:
                vision_feats[-1] = vision_feats[-1] + self.model.no_mem_embed
            feats = [
                feat.permute(1, 2, 0).view(1, -1, *feat_size)
                for feat, feat_size in zip(
                    vision_feats[::-1], self._bb_feat_sizes[::-1], strict=True
                )
            ][::-1]
            self._features = {"image_embed": feats[-1], "high_res_feats": feats[:-1]}
            self._is_image_set = True

        @torch.no_grad()
        def _predict(
            self,
            point_coords: Any,
            point_labels: Any,
            boxes: Any = None,
            mask_input: Any = None,
            multimask_output: bool = True,
            return_logits: bool = False,
            img_idx: int = -1,
        ) -> Any:
            assert point_labels.dtype == torch.int32
            assert boxes.shape == (1, 2, 2)
            self.n_decoded += 1
            masks, scores, low_res = super()._predict(
                point_coords, point_labels, boxes, mask_input, multimask_output, return_logits
            )
            return masks, 2 * scores, low_res

    predictor = Predictor(model)
    predictor.set_image(IMAGE)
    prompts = {"point_coords": [[70, 60]], "point_labels": [1], "box": [20, 30, 120, 100]}
    answer = list(predictor.predict(**prompts, return_logits=True))
    assert predictor.n_decoded == 1
    return [*answer, predictor.get_image_embedding().numpy()]


def own_transforms(predictor_class: Any, model: Any, transforms_class: Any) -> Outcome:
    """Preprocessing replaced by a client's object (micro-sam)."""

    class Mirror:
        inner = transforms_class(resolution=model.image_size, mask_threshold=0.5)

        def __call__(self, image: np.ndarray) -> torch.Tensor:
            return self.inner(image[:, ::-1].copy())

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    predictor = predictor_class(model)
    predictor._transforms = Mirror()
    predictor.set_image(IMAGE)
    masks, scores, _ = predictor.predict([[70, 60]], [1])
    batch = transforms_class(96, 0.0).forward_batch([IMAGE, IMAGE[:50]])
    return [masks, scores, batch.numpy()]


def threads(predictor_class: Any, model: Any, _: Any) -> Outcome:
    """An annotation server (label-studio) makes a predictor per request over one model."""

    def request(seed: int) -> np.ndarray:
        predictor = predictor_class(model)
        predictor.set_image(photograph(90, 120, seed))
        return predictor.predict(box=[10, 10, 90, 80], return_logits=True)[0]

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(request, range(3)))


CLIENTS: list[Client] = [
    cached_embedding,
    fine_tuning,
    batched_fine_tuning,
    boxes_of_a_dataset,
    features_by_hand,
    own_transforms,
    threads,
]


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: Client) -> None:
    official_model, our_model = models("sam2.1-tiny")
    expected = client(WorkingOfficialPredictor, official_model, OfficialTransforms)
    actual = client(SAM2ImagePredictor, our_model, SAM2Transforms)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert a.dtype == e.dtype
        if np.isin(e, (0, 1)).all():
            assert np.mean(a != e) < 1e-4
        else:
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-3 * max(1.0, float(e.std())))
