"""Load weights saved by transformers: equal tensors, equal masks."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import reference  # isort: skip  # before transformers and fastsam2

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.checkpoints.load import infer_config, load_state_dict
from fastsam2.checkpoints.transformers_format import convert_hf_state_dict
from fastsam2.errors import CheckpointError

from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel  # isort: skip
from transformers.models.sam2_video import modeling_sam2_video  # isort: skip

SIZE = 256
FRAMES = 3
POINTS = torch.tensor([[100.0, 120.0], [30.0, 40.0]])
LABELS = torch.tensor([1, 0], dtype=torch.int32)


def hf_config(family: str) -> Any:
    """Tiny at 256 px; transformers keeps the image size in four places."""
    grid = SIZE // 16
    is_2_1 = family == "sam2.1"
    return Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": {"model_type": "sam2_hiera_det_model", "image_size": [SIZE, SIZE]},
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        },
        prompt_encoder_config={"image_size": SIZE},
        image_size=SIZE,
        memory_attention_rope_feat_sizes=[grid, grid],
        enable_temporal_pos_encoding_for_object_pointers=is_2_1,
        enable_occlusion_spatial_embedding=is_2_1,
    )


def copy_weights_(hf_model: Any, official: dict[str, Tensor]) -> None:
    """Copy the official weights into transformers' model through the converted views."""
    state_dict = hf_model.state_dict()
    image_matrix = state_dict.pop("shared_image_embedding.positional_embedding")
    views = convert_hf_state_dict(state_dict)
    assert views.keys() == official.keys()
    for name, view in views.items():
        view.copy_(official[name])
    image_matrix.copy_(official["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"])


@pytest.fixture(scope="module", params=["sam2", "sam2.1"])
def models(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The official video predictor and transformers' model, with equal random weights."""
    official = reference.video_predictor(f"{request.param}-tiny", SIZE)
    hf_model = Sam2VideoModel(hf_config(request.param)).eval()
    copy_weights_(hf_model, official.state_dict())
    return official, hf_model


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for i in range(FRAMES):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    return folder


def close(actual: Tensor, expected: Tensor) -> None:
    """Within 1e-4 of the expected values' standard deviation."""
    error = (actual - expected).abs().max() / expected.std()
    assert error < 1e-4, float(error)


def hf_masks(model: Any, images: Tensor) -> list[Tensor]:
    session = modeling_sam2_video.Sam2VideoInferenceSession(images, SIZE, SIZE, dtype=torch.float32)
    inputs = {"point_coords": POINTS[None, None], "point_labels": LABELS[None, None]}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, inputs)
    session.obj_with_new_inputs = [1]
    outputs = model.propagate_in_video_iterator(session, start_frame_idx=0)
    return [output.pred_masks for output in outputs]


def tracked_masks(model: Any, state: dict[str, Any]) -> list[Tensor]:
    model.add_new_points_or_box(state, 0, 1, points=POINTS.numpy(), labels=LABELS.numpy())
    for _ in model.propagate_in_video(state):
        pass
    outputs = state["output_dict_per_obj"][0]
    tracked = {**outputs["cond_frame_outputs"], **outputs["non_cond_frame_outputs"]}
    return [tracked[i]["pred_masks"] for i in range(FRAMES)]


@pytest.mark.slow
def test_transformers_folder_gives_the_official_tensors(
    models: tuple[Any, Any], tmp_path: Path
) -> None:
    official, hf_model = models
    hf_model.save_pretrained(tmp_path)
    state_dict = load_state_dict(tmp_path)
    expected = official.state_dict()
    assert state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state_dict[name], tensor), name
    family = "sam2.1" if "no_obj_embed_spatial" in expected else "sam2"
    assert infer_config(state_dict) == f"{family}-tiny"
    by_file = load_state_dict(tmp_path / "model.safetensors")
    assert by_file.keys() == state_dict.keys()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sam2", "fastsam2"])
@torch.inference_mode()
def test_same_features_and_masks(
    engine: str,
    models: tuple[Any, Any],
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, hf_model = models
    if engine == "fastsam2":
        hf_model.save_pretrained(tmp_path)
        model = build_sam2_video_predictor(None, tmp_path, device="cpu", memory_dtype=torch.float32)
        assert model.image_size == SIZE  # from config.json
        model.fill_hole_area = 0
    state = model.init_state(str(frames))
    images = torch.stack([state["images"][i] for i in range(FRAMES)])
    levels = model.forward_image(images[:1])["backbone_fpn"]
    flats = hf_model.get_image_features(images[:1]).fpn_hidden_states
    for level, flat in zip(levels, flats, strict=True):
        close(flat.permute(1, 2, 0).view_as(level), level)

    # In float32: rounding memory to bf16 would amplify differences in the last bit.
    float32_torch = types.SimpleNamespace(**(vars(torch) | {"bfloat16": torch.float32}))
    monkeypatch.setattr(modeling_sam2_video, "torch", float32_torch)
    with reference.float32_memory():
        expected = tracked_masks(model, state)
    masks = hf_masks(hf_model, images)
    assert len(masks) == len(expected) == FRAMES
    for ours, theirs in zip(expected, masks, strict=True):
        assert 0.1 < (ours > 0).float().mean() < 0.99
        close(theirs.view_as(ours), ours)


@torch.inference_mode()
def test_same_mask_prompt(models: tuple[Any, Any]) -> None:
    official, hf_model = models
    mask = torch.rand(1, 1, SIZE, SIZE)
    _, expected = official.sam_prompt_encoder(None, None, official.mask_downsample(mask))
    _, dense = hf_model.prompt_encoder(None, None, None, hf_model.mask_downsample(mask))
    close(dense, expected)


def test_shards(models: tuple[Any, Any], tmp_path: Path) -> None:
    official, hf_model = models
    hf_model.save_pretrained(tmp_path, max_shard_size="50MB")
    assert not (tmp_path / "model.safetensors").exists()
    state_dict = load_state_dict(tmp_path)
    assert state_dict.keys() == official.state_dict().keys()

    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load_state_dict(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not an index"):
        load_state_dict(tmp_path)


def test_image_model_lacks_memory(tmp_path: Path) -> None:
    video = hf_config("sam2.1")
    model = Sam2Model(
        Sam2Config(
            vision_config=video.vision_config.to_dict(),
            prompt_encoder_config={"image_size": SIZE},
        )
    )
    matrix = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(matrix)
    model.save_pretrained(tmp_path)
    state_dict = load_state_dict(tmp_path)
    assert "sam_mask_decoder.iou_token.weight" in state_dict
    with pytest.raises(CheckpointError, match="image model"):
        infer_config(state_dict)


def test_one_matrix_for_both_encodings(models: tuple[Any, Any]) -> None:
    state_dict = models[1].state_dict()
    image, prompt = (
        "shared_image_embedding.positional_embedding",
        "prompt_encoder.shared_embedding.positional_embedding",
    )
    whole = convert_hf_state_dict(state_dict)
    for one in (image, prompt):
        without = {name: tensor for name, tensor in state_dict.items() if name != one}
        assert convert_hf_state_dict(without).keys() == whole.keys()
    with pytest.raises(CheckpointError, match="differ"):
        convert_hf_state_dict(state_dict | {image: state_dict[image] + 1})
