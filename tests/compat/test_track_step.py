"""Compatibility with `sam2`: `track_step` and its parts, called with dictionaries."""

from __future__ import annotations

import collections
import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.build_sam import build_sam2
from fastsam2.errors import InputError, StateError
from tests import reference, support
from tests.compat.clients import SIZE, Client, Package, agree, overrides

Both = tuple[Package, Package]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frame(model: Any, t: int, batch: int = 1) -> dict[str, Any]:
    """Return features of a frame as arguments of `track_step`, for a batch of videos."""
    backbone_out = model.forward_image(noise(t, batch, 3, SIZE, SIZE))
    _, feats, pos_embeds, sizes = model._prepare_backbone_features(backbone_out)
    return {
        "current_vision_feats": feats,
        "current_vision_pos_embeds": pos_embeds,
        "feat_sizes": sizes,
    }


def points(batch: int, count: int = 1, seed: int = 3) -> dict[str, Tensor]:
    coords = noise(seed, batch, count, 2).sigmoid() * SIZE
    return {"point_coords": coords, "point_labels": torch.ones(batch, count, dtype=torch.int32)}


def box_mask(batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, 1, SIZE, SIZE)
    for row in range(batch):
        mask[row, :, 20 + 9 * row : 80, 30:100] = 1
    return mask


@torch.inference_mode()
def mask_tracker(package: Package) -> Any:
    """cvat: a mask on the first frame, and its own storage of each frame's output."""
    model = package.predictor

    def call(t: int, **kwargs: Any) -> dict[str, Any]:
        out = model.track_step(
            **frame(model, t), point_inputs=None, frame_idx=t, num_frames=t + 1, **kwargs
        )
        return {
            "maskmem_features": out["maskmem_features"],
            "maskmem_pos_enc": out["maskmem_pos_enc"][-1:],
            "pred_masks": out["pred_masks"],
            "obj_ptr": out["obj_ptr"],
        }

    first = call(0, is_init_cond_frame=True, mask_inputs=box_mask(), output_dict={})
    kept: Any = collections.OrderedDict()
    outputs = {"cond_frame_outputs": {0: first}, "non_cond_frame_outputs": kept}
    shown = []
    for t in range(1, 11):
        kept[t] = call(t, is_init_cond_frame=False, mask_inputs=None, output_dict=outputs)
        while len(kept) > model.num_maskmem:
            kept.popitem(last=False)
        masks = kept[t]["pred_masks"]
        shown.append(F.interpolate(masks, (60, 90), mode="bilinear", antialias=True))
    return shown, first, sorted(kept)


@torch.inference_mode()
def batch_of_videos(package: Package) -> Any:
    """Three videos in one batch: clicks, a correction of a tracked frame, and reverse tracking."""
    model, batch = package.predictor, 3
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}

    def step(t: int, kind: str, **kwargs: Any) -> dict[str, Any]:
        prompt = {"point_inputs": None, "mask_inputs": None, **kwargs}
        out = model.track_step(
            frame_idx=t,
            is_init_cond_frame=kind == "cond_frame_outputs",
            **frame(model, t, batch),
            output_dict=outputs,
            num_frames=20,
            **prompt,
        )
        outputs[kind][t] = out
        return out

    found = [step(3, "cond_frame_outputs", point_inputs=points(batch))]
    found += [step(t, "non_cond_frame_outputs") for t in (4, 5)]
    again = model.track_step(
        5,
        False,
        *frame(model, 5, batch).values(),
        points(batch, count=2),
        None,
        outputs,
        20,
        run_mem_encoder=False,
        prev_sam_mask_logits=found[-1]["pred_masks"],
    )
    found += [step(6, "cond_frame_outputs", mask_inputs=box_mask(batch))]
    # Frame 5 once more, with a conditioning frame in its future.
    found += [step(t, "non_cond_frame_outputs") for t in (5, 7, 8)]
    found += [step(t, "non_cond_frame_outputs", track_in_reverse=True) for t in (2, 1, 0)]
    return found, again


@torch.inference_mode()
def parts(package: Package) -> Any:
    """Call the methods that `track_step` consists of, by their official names."""
    model, batch = package.predictor, 2
    features = frame(model, 0, batch)
    prepared = model._prepare_memory_conditioned_features(
        frame_idx=0, is_init_cond_frame=True, output_dict={}, num_frames=5, **features
    )
    high_res = [
        x.permute(1, 2, 0).view(batch, -1, *size)
        for x, size in zip(
            features["current_vision_feats"][:2], features["feat_sizes"], strict=False
        )
    ]
    one = model._forward_sam_heads(prepared, points(batch), None, high_res, False)
    three = model._forward_sam_heads(
        backbone_features=prepared,
        mask_inputs=one[3],
        high_res_features=high_res,
        multimask_output=True,
    )
    given = model._use_mask_as_output(prepared, high_res, box_mask(batch))
    memory = model._encode_new_memory(
        current_vision_feats=features["current_vision_feats"],
        feat_sizes=features["feat_sizes"],
        pred_masks_high_res=one[4],
        object_score_logits=torch.tensor([[1.0], [-1.0]]),
        is_mask_from_pts=True,
    )
    several = [model._use_multimask(True, points(1, count)) for count in (1, 2)]
    return prepared, one, three, given, memory, several, model._use_multimask(False, None)


CLIENTS: list[Client] = [mask_tracker, batch_of_videos, parts]


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: Client, packages: Both) -> None:
    result = agree(client, packages)
    assert not isinstance(result, Exception), result


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_image_model(client: Client) -> None:
    """The model that `build_sam2` returns has the same methods."""
    ref = reference.image_model("sam2.1-tiny", SIZE, overrides=support.SHALLOW)
    ours = build_sam2("sam2.1-tiny", device="cpu", hydra_overrides_extra=overrides())
    ours.load_state_dict(ref.state_dict())
    result = agree(client, (Package("sam2", ref), Package("fastsam2", ours)))
    assert not isinstance(result, Exception), result


@pytest.fixture(scope="module")
def older() -> Both:
    """Return a model of the first release: no pointer times, no spatial no-object embedding."""
    pair = support.make_pair("sam2-tiny", SIZE, support.SHALLOW)
    return Package("sam2", pair.ref), Package("fastsam2", pair.ours)


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_older_model(client: Client, older: Both) -> None:
    result = agree(client, older)
    assert not isinstance(result, Exception), result


OPTIONS: dict[str, dict[str, Any]] = {
    "no memory": {"num_maskmem": 0},
    "masks as prompts": {"use_mask_input_as_output_without_sam": False},
    "a stride and few conditioning frames": {
        "memory_temporal_stride_for_eval": 2,
        "max_cond_frames_in_attn": 2,
    },
    "pointers from anywhere": {
        "only_obj_ptrs_in_the_past_for_eval": False,
        "use_signed_tpos_enc_to_obj_ptrs": False,
    },
    "no pointers": {"use_obj_ptrs_in_encoder": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options: dict[str, Any], fresh: Both) -> None:
    for package in fresh:
        for name, value in options.items():
            assert hasattr(package.predictor, name)
            setattr(package.predictor, name, value)
    result = agree(batch_of_videos, fresh)
    assert not isinstance(result, Exception), result


# Training


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout_p", None), float):
            module.dropout_p = 0.0
    return model


@pytest.mark.slow
def test_training_mode(fresh: Both) -> None:
    """Future conditioning frames are read, neighbours without a stride, masks are not binarized."""
    for package in fresh:
        without_dropout(package.predictor).train()
        package.predictor.memory_temporal_stride_for_eval = 3
    result = agree(batch_of_videos, fresh)
    assert not isinstance(result, Exception), result


def gradients(package: Package, training: bool) -> Any:
    """Gradients through two frames, from the second one's output into all parts."""
    model = package.predictor
    without_dropout(model).train(training)
    first = model.track_step(
        0, True, *frame(model, 0, 2).values(), points(2), None, {}, num_frames=2
    )
    outputs = {"cond_frame_outputs": {0: first}, "non_cond_frame_outputs": {}}
    second = model.track_step(
        1, False, *frame(model, 1, 2).values(), None, None, outputs, num_frames=2
    )
    loss = second["pred_masks_high_res"].square().mean() + second["obj_ptr"].square().mean()
    loss.backward()
    grads = {name: p.grad for name, p in sorted(model.named_parameters()) if name in EVERYWHERE}
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values())
    return list(first), list(second), loss.detach(), grads


EVERYWHERE = [
    "image_encoder.trunk.patch_embed.proj.weight",
    "maskmem_tpos_enc",
    "memory_attention.layers.0.cross_attn_image.k_proj.weight",
    "memory_encoder.fuser.layers.0.gamma",
    "no_mem_embed",
    "obj_ptr_proj.layers.0.weight",
    "sam_mask_decoder.iou_token.weight",
    "sam_prompt_encoder.point_embeddings.1.weight",
]


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_gradients(training: bool, fresh: Both) -> None:
    result = agree(gradients, fresh, training)
    assert not isinstance(result, Exception), result
    assert len(result[3]) == len(EVERYWHERE)
    assert ("object_score_logits" in result[0]) is not training


# Parts that are replaced


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["_prepare_memory_conditioned_features", "_forward_sam_heads", "_encode_new_memory"],
)
def test_part_replaced_in_a_subclass(name: str, fresh: Both) -> None:
    """Forks override one part and call the original."""
    calls = []
    for package in fresh:
        model = package.predictor
        original = getattr(type(model), name)

        def replaced(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(self)
            return _original(self, *args, **kwargs)

        model.__class__ = type("Forked", (type(model),), {name: replaced})
    result = agree(batch_of_videos, fresh)
    assert not isinstance(result, Exception), result
    for package in fresh:
        assert any(call is package.predictor for call in calls)


# Invalid arguments


def test_refusals(packages: Both) -> None:
    model = packages[1].predictor
    features = list(frame(model, 0).values())
    nothing: dict[str, Any] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    with pytest.raises(StateError, match="frame 4 has no conditioning frame"):
        model.track_step(4, False, *features, None, None, nothing, 9)
    with pytest.raises(InputError, match="prev_sam_mask_logits needs point_inputs"):
        model.track_step(
            4, True, *features, None, None, nothing, 9, prev_sam_mask_logits=noise(0, 1, 1, 32, 32)
        )


def test_a_stream(packages: Both) -> None:
    """A stream without an end gives the results of a long video."""
    model = copy.deepcopy(packages[1].predictor)
    first = model.track_step(
        0, True, *frame(model, 0).values(), points(1), None, {}, num_frames=None
    )
    outputs = {"cond_frame_outputs": {0: first}, "non_cond_frame_outputs": {}}
    ends = [
        model.track_step(1, False, *frame(model, 1).values(), None, None, outputs, end)
        for end in (None, 100)
    ]
    assert torch.equal(ends[0]["pred_masks"], ends[1]["pred_masks"])
