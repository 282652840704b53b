"""Compatibility with `sam2`: reading the inference state as a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import support
from tests.compat.clients import Client, Package, agree, assert_same, click, logits_of

Both = tuple[Package, Package]

KEYS_TEXT = """
    images num_frames offload_video_to_cpu offload_state_to_cpu video_height video_width device
    storage_device point_inputs_per_obj mask_inputs_per_obj cached_features constants obj_id_to_idx
    obj_idx_to_id obj_ids output_dict_per_obj temp_output_dict_per_obj frames_tracked_per_obj
"""
KEYS = KEYS_TEXT.split()


@pytest.fixture(scope="session")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return twelve frames, more than the seven that memory reaches."""
    return support.write_clip(tmp_path_factory.mktemp("longer"), frames=12)


def tracked(package: Package, video: Path, **kwargs: Any) -> Any:
    """Return a session with two objects, tracked through the first frames; the second corrected."""
    state = package.predictor.init_state(str(video), **kwargs)
    click(package, state, obj=3)
    mask = np.zeros((120, 160), dtype=bool)
    mask[30:90, 40:110] = True
    package.predictor.add_new_mask(state, 1, 8, mask)
    logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=2))
    click(package, state, frame=2, obj=8)
    return state


def plain(value: Any) -> Any:
    """Convert nested mappings to dictionaries sorted by key, to compare only their contents."""
    if hasattr(value, "keys"):
        return {key: plain(value[key]) for key in sorted(value, key=str)}
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def every_value(package: Package, video: Path) -> Any:
    """Read the whole state, down to the tensors of each object on each frame."""
    state = tracked(package, video)
    images = torch.stack([state["images"][i].cpu() for i in range(len(state["images"]))])
    skipped = ("images", "cached_features", "constants")
    return {
        "images": images,
        "cached": sorted(state["cached_features"]),
        "maskmem_pos_enc": list(state["constants"]["maskmem_pos_enc"]),
        **{key: plain(state[key]) for key in KEYS if key not in skipped},
    }


def cached_features(package: Package, video: Path) -> Any:
    """The cached frame: its image, and the image encoder's output."""
    state = package.predictor.init_state(str(video))
    click(package, state, frame=2)
    ((frame, (image, features)),) = state["cached_features"].items()
    return frame, image, features


def features_of_frame_0(package: Package, video: Path) -> Any:
    """`init_state` encodes frame 0, and features that a program asks for are stored."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    found = [plain(dict(state["cached_features"]))]
    with torch.inference_mode():
        asked = predictor._get_image_feature(state, 3, 1)
    ((frame, (image, features)),) = state["cached_features"].items()
    assert asked[0].data_ptr() == image.data_ptr()
    return found, frame, image, features, list(asked)


def offloaded(package: Package, video: Path) -> Any:
    state = tracked(package, video, offload_video_to_cpu=True, offload_state_to_cpu=True)
    names = ("offload_video_to_cpu", "offload_state_to_cpu", "device", "storage_device")
    outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    return [state[name] for name in names], [str(o["pred_masks"].device) for o in outputs.values()]


def sizes(package: Package, video: Path) -> Any:
    """Meta's demo and vos_inference read the size and length of the video."""
    state = package.predictor.init_state(video_path=str(video), async_loading_frames=False)
    height = state["video_height"]
    width = state["video_width"]
    num_frames = state["num_frames"]
    blank = torch.zeros(1, 1, height, width)
    return height, width, num_frames, len(state["images"]), state["obj_ids"], blank


def object_scores(package: Package, video: Path) -> Any:
    """label-studio turns presence logits into a confidence for each object and frame."""
    state = tracked(package, video)
    scores = []
    for obj_id in state["obj_ids"]:
        obj_idx = state["obj_id_to_idx"][obj_id]
        outputs = state["output_dict_per_obj"][obj_idx]
        for frame in range(state["num_frames"]):
            out = outputs["cond_frame_outputs"].get(frame)
            if out is None:
                out = outputs["non_cond_frame_outputs"].get(frame)
            if out is not None and out.get("object_score_logits") is not None:
                score = torch.sigmoid(out["object_score_logits"].flatten()[0].float()).item()
                scores.append((obj_id, frame, score))
    assert len(scores) >= 5
    return scores


def records(package: Package, video: Path) -> Any:
    """The fields of an output that programs read."""
    state = tracked(package, video)
    outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    record = outputs[1]
    names = list(record)
    assert "pred_masks" in record
    assert record.get("point_inputs") is None
    copy = dict(record)
    assert copy["obj_ptr"] is record["obj_ptr"]
    prompts = state["point_inputs_per_obj"][0][0]
    pending = state["temp_output_dict_per_obj"][1]["non_cond_frame_outputs"][2]
    return names, sorted(outputs), dict(prompts), pending["maskmem_features"]


def preflight(package: Package, video: Path) -> Any:
    """segment-geospatial encodes prompts first, then propagates with its own arguments."""
    predictor = package.predictor
    state = predictor.init_state(str(video))
    click(package, state, obj=1)
    click(package, state, frame=2, obj=2)
    pending = [sorted(o["cond_frame_outputs"]) for o in state["temp_output_dict_per_obj"].values()]
    assert predictor.propagate_in_video_preflight(state) is None
    kept = {i: plain(o["cond_frame_outputs"]) for i, o in state["output_dict_per_obj"].items()}
    left = [sorted(o["cond_frame_outputs"]) for o in state["temp_output_dict_per_obj"].values()]
    frames = predictor.propagate_in_video(state, start_frame_idx=0, max_frame_num_to_track=1)
    return pending, kept, left, logits_of(frames)


def separately_tracked(package: Package, video: Path) -> Any:
    """vos_inference with one PNG per object tracks each alone, then removes overlaps."""
    predictor = package.predictor
    state = predictor.init_state(video_path=str(video), async_loading_frames=False)
    height, width = state["video_height"], state["video_width"]
    prompts = {1: (30, 40), 2: (50, 70), 5: (60, 30)}
    output_scores: dict[int, dict[int, np.ndarray]] = {obj: {} for obj in prompts}
    for object_id, (row, column) in prompts.items():
        predictor.reset_state(state)
        mask = np.zeros((height, width), dtype=bool)
        mask[row : row + 40, column : column + 50] = True
        predictor.add_new_mask(state, 0, object_id, mask)
        frames = predictor.propagate_in_video(
            state, start_frame_idx=0, max_frame_num_to_track=1, reverse=False
        )
        for out_frame_idx, _, out_mask_logits in frames:
            output_scores[object_id][out_frame_idx] = out_mask_logits.cpu().numpy()
    found = []
    for frame in range(2):
        scores = torch.full((len(prompts) + 1, 1, height, width), fill_value=-1024.0)
        for i, object_id in enumerate(prompts):
            scores[i] = torch.from_numpy(output_scores[object_id][frame])
        scores = predictor._apply_non_overlapping_constraints(scores)
        per_obj = {obj: (scores[i, 0] > 0.0).numpy() for i, obj in enumerate(prompts)}
        assert sum(m.astype(int) for m in per_obj.values()).max() == 1
        assert scores.dtype == torch.float32
        found.append(per_obj)
    return found


def bounded_memory(package: Package, longer: Path) -> Any:
    """In long videos programs drop outputs that can no longer be read, or set them to None."""
    predictor = package.predictor
    state = predictor.init_state(str(longer))
    click(package, state)
    shown = []
    for frame, _, masks in predictor.propagate_in_video(state):
        shown.append(masks.clone())
        for obj_idx in range(len(state["obj_ids"])):
            outputs = state["output_dict_per_obj"][obj_idx]["non_cond_frame_outputs"]
            for t in [t for t in outputs if t < frame - 9]:
                outputs.pop(t, None)
            # Its pointer is still read.
            if frame - 7 in outputs:
                outputs[frame - 7]["maskmem_features"] = None
                outputs[frame - 7]["pred_masks"] = None
            state["frames_tracked_per_obj"][obj_idx].pop(frame - 5, None)
        state["cached_features"].pop(frame - 1, None)
    left = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    assert sorted(left) == list(range(2, 12))
    return shown, sorted(left), sorted(state["frames_tracked_per_obj"][0])


def removed_and_reset(package: Package, video: Path) -> Any:
    predictor = package.predictor
    state = tracked(package, video)
    ids_before = state["obj_ids"]
    predictor.remove_object(state, 3)
    per_object = [key for key in KEYS if key.endswith("_per_obj")]
    after_removal = {key: plain(state[key]) for key in (*per_object, "obj_ids")}
    mapping = dict(state["obj_id_to_idx"]), dict(state["obj_idx_to_id"])
    predictor.reset_state(state)
    empty = {key: plain(state[key]) for key in (*per_object, "obj_ids", "obj_id_to_idx")}
    click(package, state, obj=5)
    frames = logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=1))
    return list(ids_before), after_removal, mapping, empty, frames


def own_keys(package: Package, video: Path) -> Any:
    """Programs store their own keys in the state, and look up keys of older versions."""
    state = package.predictor.init_state(str(video))
    state["session_id"] = "a1"
    state.update(prompts=[], start=4)
    state.setdefault("cache", {})["x"] = 1
    answers = [
        "session_id" in state,
        state["cache"]["x"],
        state.pop("start"),
        state.get("start", "gone"),
        "output_dict" in state,
        state.get("frames_already_tracked"),
        state.get("tracking_has_started", False),
    ]
    click(package, state)
    logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=1))
    package.predictor.reset_state(state)
    del state["prompts"]
    try:
        state["consolidated_frame_inds"]
    except KeyError as error:
        answers.append(error)
    return answers, sorted(state), len(state), state["session_id"]


CLIENTS: list[Client] = [
    every_value,
    cached_features,
    features_of_frame_0,
    offloaded,
    sizes,
    object_scores,
    records,
    preflight,
    separately_tracked,
    removed_and_reset,
    own_keys,
]


@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: Client, packages: Both, video: Path) -> None:
    result = agree(client, packages, video)
    assert not isinstance(result, Exception), result


@pytest.mark.slow
def test_client_that_bounds_memory(packages: Both, longer: Path) -> None:
    result = agree(bounded_memory, packages, longer)
    assert not isinstance(result, Exception), result


def test_the_eighteen_keys(packages: Both, video: Path) -> None:
    for package in packages:
        state = package.predictor.init_state(str(video))
        assert set(state) == set(KEYS)
        assert [key in state for key in KEYS] == [True] * 18
        assert {key: state.get(key) is not None for key in KEYS} == dict.fromkeys(KEYS, True)


def test_non_overlapping_constraints(packages: Both) -> None:
    scores = torch.randn(3, 1, 20, 30) * 20
    for batch in (scores, scores[:1]):
        ref, ours = (p.predictor._apply_non_overlapping_constraints(batch) for p in packages)
        assert_same(ours, ref)
