"""Compatibility with `sam2`: attributes that exporters read, and attributes set between calls."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from fastsam2 import build_sam
from tests import reference
from tests.compat.clients import SIZE, TINY, Client, Package, agree, click, logits_of, overrides
from tests.predictors.image_cases import official_parts

Both = tuple[Package, Package]

READ = """
    image_size num_feature_levels directly_add_no_mem_embed num_maskmem max_obj_ptrs_in_encoder
    memory_temporal_stride_for_eval max_cond_frames_in_attn hidden_dim mem_dim backbone_stride
    sam_prompt_embed_dim sam_image_embedding_size use_high_res_features_in_sam
    use_obj_ptrs_in_encoder add_tpos_enc_to_obj_ptrs proj_tpos_enc_in_obj_ptrs
    use_signed_tpos_enc_to_obj_ptrs only_obj_ptrs_in_the_past_for_eval
    sigmoid_scale_for_mem_enc sigmoid_bias_for_mem_enc binarize_mask_from_pts_for_mem_enc
    non_overlap_masks_for_mem_enc use_mask_input_as_output_without_sam multimask_output_in_sam
    multimask_min_pt_num multimask_max_pt_num multimask_output_for_tracking
    use_multimask_token_for_obj_ptr iou_prediction_use_sigmoid pred_obj_scores pred_obj_scores_mlp
    fixed_no_obj_ptr soft_no_obj_ptr use_mlp_for_obj_ptr_proj fill_hole_area non_overlap_masks
    clear_non_cond_mem_around_input add_all_frames_to_correct_as_cond training
"""

EMBEDDINGS = "no_mem_embed no_mem_pos_enc maskmem_tpos_enc no_obj_ptr no_obj_embed_spatial"


@pytest.mark.slow
def test_attributes(packages: Both) -> None:
    agree(lambda p: {name: getattr(p.predictor, name) for name in READ.split()}, packages)


@pytest.mark.parametrize("apply_postprocessing", [True, False])
def test_extra_arguments_of_the_mask_decoder(apply_postprocessing: bool) -> None:
    """Programs read them to build a second decoder."""
    official, ours = (
        module.build_sam2(
            TINY,
            None,
            device="cpu",
            hydra_overrides_extra=overrides(),
            apply_postprocessing=apply_postprocessing,
        ).sam_mask_decoder_extra_args
        for module in (reference.sam2.build_sam, build_sam)
    )
    assert ours == (None if official is None else dict(official))
    assert (ours is not None) == apply_postprocessing


def test_embeddings(packages: Both) -> None:
    agree(lambda p: {name: getattr(p.predictor, name) for name in EMBEDDINGS.split()}, packages)


def test_device(packages: Both) -> None:
    agree(lambda p: p.predictor.device, packages)


def encoder_output(package: Package) -> Any:
    """cvat, micro-sam and openvino read the features in their official layouts."""
    model = package.predictor
    image = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        backbone_out = model.forward_image(image)
        same, vision_feats, vision_pos_embeds, feat_sizes = model._prepare_backbone_features(
            backbone_out
        )
    assert same is not backbone_out
    expanded = {
        "backbone_fpn": [x.expand(2, -1, -1, -1) for x in backbone_out["backbone_fpn"]],
        "vision_pos_enc": [x.expand(2, -1, -1, -1) for x in backbone_out["vision_pos_enc"]],
    }
    prepared = model._prepare_backbone_features(expanded)[1:]
    return (
        {key: backbone_out[key] for key in sorted(backbone_out)},
        sorted(same),
        vision_feats,
        vision_pos_embeds,
        feat_sizes,
        list(prepared),
    )


def test_encoder_output(packages: Both) -> None:
    assert not isinstance(agree(encoder_output, packages), Exception)


def session(package: Package, video: Path) -> Any:
    state = package.predictor.init_state(str(video))
    click(package, state, obj=1)
    package.predictor.add_new_points_or_box(state, 0, 2, box=[30, 20, 110, 100])
    return logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=2))


def holes_filled(package: Package, video: Path) -> Any:
    package.predictor.fill_hole_area = 60
    with official_parts():
        return session(package, video)


def one_object_a_pixel(package: Package, video: Path) -> Any:
    """Count the pixels of each object; ties, which rounding decides, do not change the counts."""
    package.predictor.non_overlap_masks = True
    frames = session(package, video)
    assert all(((masks > 0).sum(0) <= 1).all() for _, _, masks in frames)
    return [(masks > 0) for _, _, masks in frames]


def short_memory(package: Package, video: Path) -> Any:
    package.predictor.num_maskmem = 2
    package.predictor.max_obj_ptrs_in_encoder = 2
    return session(package, video)


def corrections_as_conditions(package: Package, video: Path) -> Any:
    predictor = package.predictor
    predictor.add_all_frames_to_correct_as_cond = True
    state = predictor.init_state(str(video))
    click(package, state)
    frames = logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    predictor.add_new_points_or_box(state, 1, 1, points=[[100, 50]], labels=[0])
    frames += logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    conditioning = sorted(state["output_dict_per_obj"][0]["cond_frame_outputs"])
    assert conditioning == [0, 1]
    return frames


@pytest.mark.slow
@pytest.mark.parametrize("client", [holes_filled, short_memory])
def test_attribute_set_after_building(client: Client, fresh: Both, video: Path) -> None:
    plain = session(fresh[1], video)
    result = agree(client, fresh, video)
    assert not isinstance(result, Exception), result
    assert any(not torch.equal(a, b) for (_, _, a), (_, _, b) in zip(plain, result, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("client", [one_object_a_pixel, corrections_as_conditions])
def test_attribute_with_an_effect_of_its_own(client: Client, fresh: Both, video: Path) -> None:
    result = agree(client, fresh, video)
    assert not isinstance(result, Exception), result


# Set between the frames of a propagation


class Far:
    """A session of 12 frames with conditioning frames 0, 3 and 6."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(index))


def on_the_way(package: Package, video: Path, change: dict[str, Any]) -> Any:
    predictor = package.predictor
    if package.name == "sam2":
        # `sam2` calls a method that does not exist: do what its docstring says, for one object.
        def clear(state: Any, frame: int, obj_idx: int) -> None:
            predictor._clear_non_cond_mem_around_input(state, frame)

        predictor._clear_obj_non_cond_mem_around_input = clear
    state = predictor.init_state(str(video))
    state["images"], state["num_frames"], state["cached_features"] = Far(), 12, {}
    for frame in (0, 3, 6):
        click(package, state, frame=frame)
    shown = []
    for frame, _, masks in predictor.propagate_in_video(state):
        shown.append(masks.clone())
        if frame == 4:
            for name, value in change.items():
                setattr(predictor, name, value)
    kept = sorted(state["output_dict_per_obj"][0]["non_cond_frame_outputs"])
    predictor.add_new_points_or_box(state, 9, 1, points=[[100, 50]], labels=[0])
    predictor.propagate_in_video_preflight(state)
    outputs = state["output_dict_per_obj"][0]
    return shown, kept, {kind: sorted(outputs[kind]) for kind in outputs}


ON_THE_WAY: list[dict[str, Any]] = [
    {"max_cond_frames_in_attn": 2},
    {"memory_temporal_stride_for_eval": 3},
    {"clear_non_cond_mem_around_input": True},
    {"add_all_frames_to_correct_as_cond": True},
    {"num_maskmem": 3, "max_obj_ptrs_in_encoder": 4},
    {"clear_non_cond_mem_around_input": True, "memory_temporal_stride_for_eval": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("change", ON_THE_WAY, ids=str)
def test_attribute_set_during_propagation(change: dict[str, Any], fresh: Both, video: Path) -> None:
    result = agree(on_the_way, fresh, video, change)
    assert not isinstance(result, Exception), result


@pytest.mark.slow
def test_these_attributes_have_an_effect(fresh: Both, video: Path) -> None:
    def last(change: dict[str, Any]) -> Any:
        shown, kept, outputs = on_the_way(copy.deepcopy(fresh[1]), video, change)
        return shown[-1], (kept, outputs)

    masks, frames = last({})
    for change in ON_THE_WAY:
        other_masks, other_frames = last(change)
        assert other_frames != frames or not torch.equal(other_masks, masks), change
