"""Compatibility with `sam2`: states that programs write to or build themselves."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam2.errors import InputError
from fastsam2.predictors.dict_state import as_session
from tests.compat.clients import SIZE, Client, Package, agree, assert_same, click, logits_of
from tests.compat.test_state_reading import KEYS, plain

Both = tuple[Package, Package]
Change = Callable[[Any, int], None]


class LazyFrames:
    """Frames that are added during tracking: a length and items, nothing else."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index // 2)
        return torch.randn(3, SIZE, SIZE, generator=generator)


def by_hand(package: Package, images: Any) -> dict[str, Any]:
    """Build a state without `init_state`, as micro-sam and DAM4SAM do."""
    predictor = package.predictor
    state: dict[str, Any] = {
        "images": images,
        "num_frames": len(images),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": 120,
        "video_width": 160,
        "device": torch.device("cpu"),
        "storage_device": torch.device("cpu"),
        "point_inputs_per_obj": {},
        "mask_inputs_per_obj": {},
        "cached_features": {},
        "constants": {},
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
        "output_dict_per_obj": {},
        "temp_output_dict_per_obj": {},
        "frames_tracked_per_obj": {},
    }
    predictor._get_image_feature(state, frame_idx=0, batch_size=1)
    return state


def opened(package: Package, video: Path) -> Any:
    return package.predictor.init_state(str(video))


def every_call(package: Package, state: Any) -> Any:
    """Call each public method and return the state after it."""
    predictor = package.predictor
    mask = np.zeros((120, 160), dtype=bool)
    mask[30:90, 40:110] = True
    seen: list[Any] = []

    def look(*outcome: Any) -> None:
        skipped = ("images", "cached_features", "constants")
        content = {key: plain(state[key]) for key in KEYS if key not in skipped}
        cached = sorted(state["cached_features"]), sorted(state["constants"])
        seen.append((*outcome, cached, copy.deepcopy(content)))

    look(*click(package, state, obj="cup"))
    look(*predictor.add_new_mask(state, 1, 8, mask))
    look(*predictor.add_new_points(state, 1, 9, [[30, 30]], [1]))
    look(predictor.propagate_in_video_preflight(state))
    look(logits_of(predictor.propagate_in_video(state, 0, max_frame_num_to_track=2)))
    look(*predictor.add_new_points_or_box(state, 2, 9, [[80, 60]], [0], clear_old_points=False))
    look(logits_of(predictor.propagate_in_video(state, 3, max_frame_num_to_track=2, reverse=True)))
    look(*predictor.clear_all_prompts_in_frame(state, 1, 9))
    look(*predictor.remove_object(state, 8))
    look(*predictor.add_new_points_or_box(state, 2, 10, box=[30, 20, 110, 100]))
    look(predictor.reset_state(state))
    look(*click(package, state, obj=1))
    look(logits_of(predictor.propagate_in_video(state, max_frame_num_to_track=1)))
    return seen


def hand_made_state(package: Package, video: Path) -> Any:
    return every_call(package, by_hand(package, LazyFrames(4)))


def hand_made_with_text_devices(package: Package, video: Path) -> Any:
    """Devices are given by name, frames are a list, and unread keys are missing."""
    state = by_hand(package, [LazyFrames(3)[i] for i in range(3)])
    state["device"] = state["storage_device"] = "cpu"
    del state["offload_video_to_cpu"], state["offload_state_to_cpu"]
    click(package, state)
    return logits_of(package.predictor.propagate_in_video(state))


def containers_held(package: Package, video: Path) -> Any:
    """Containers that a program holds a reference to stay part of the state."""
    predictor = package.predictor
    state = by_hand(package, LazyFrames(4))
    memory, id_to_idx = state["output_dict_per_obj"], state["obj_id_to_idx"]
    pending, tracked = state["temp_output_dict_per_obj"], state["frames_tracked_per_obj"]
    click(package, state, obj=1)
    click(package, state, frame=1, obj=2)
    first = memory[0]["non_cond_frame_outputs"]
    waiting = [sorted(p["cond_frame_outputs"]) for p in pending.values()]
    frames = []
    for frame, _, masks in predictor.propagate_in_video(state, start_frame_idx=0):
        frames.append(
            (frame, masks.clone(), sorted(first), {i: sorted(t) for i, t in tracked.items()})
        )
    return frames, waiting, dict(id_to_idx), sorted(memory[1]["cond_frame_outputs"])


def stream(package: Package, state: Any) -> Any:
    """label-studio: frames are added between short propagations, and old memory is dropped."""
    predictor = package.predictor
    frames = LazyFrames(1)
    state["images"], state["num_frames"], state["cached_features"] = frames, 1, {}
    click(package, state)
    shown, kept = [], []
    for t in range(12):
        frames.count = state["num_frames"] = t + 1
        state["cached_features"] = {}
        found = predictor.propagate_in_video(state, start_frame_idx=t, max_frame_num_to_track=1)
        shown += logits_of(found)
        outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
        score = outputs.get(t)
        kept.append(None if score is None else score["object_score_logits"].clone())
        for old in [old for old in outputs if old < t - 8]:
            del outputs[old]
        assert t - 9 not in outputs
    return shown, kept, sorted(outputs), len(state["images"])


def grown_on_the_way(package: Package, video: Path) -> Any:
    """The video grows during propagation; the next call continues with the new frames."""
    predictor = package.predictor
    state = by_hand(package, LazyFrames(3))
    click(package, state)
    shown = []
    for frame, _, masks in predictor.propagate_in_video(state):
        shown.append((frame, masks.clone()))
        if frame == 1:
            state["images"], state["num_frames"] = LazyFrames(5), 5
    shown += logits_of(predictor.propagate_in_video(state, start_frame_idx=3))
    return shown


def other_images(package: Package, video: Path) -> Any:
    """Frames are replaced in the session; the client drops the cached features of the old ones."""
    state = opened(package, video)
    click(package, state)
    state["images"] = LazyFrames(3)
    state["num_frames"] = 3
    state["cached_features"] = {}
    return click(package, state), logits_of(package.predictor.propagate_in_video(state))


def edited(change: Change) -> Client:
    """The client edits outputs on frames 0 and 2 between two propagations."""

    def client(package: Package, video: Path) -> Any:
        predictor = package.predictor
        state = opened(package, video)
        click(package, state, obj=1)
        predictor.add_new_points_or_box(state, 0, 2, box=[30, 20, 110, 100])
        before = logits_of(predictor.propagate_in_video(state))
        change(state["output_dict_per_obj"][1]["cond_frame_outputs"], 0)
        change(state["output_dict_per_obj"][0]["non_cond_frame_outputs"], 2)
        # The edits can be read back.
        output = state["output_dict_per_obj"][0]["non_cond_frame_outputs"][2]
        written = {key: value for key, value in output.items() if value is not None}
        after = logits_of(predictor.propagate_in_video(state, start_frame_idx=3))
        corrected = predictor.add_new_points_or_box(state, 2, 1, [[100, 50]], [0])
        again = logits_of(predictor.propagate_in_video(state, 0, 1))
        return before, written, after, corrected, again

    client.__name__ = change.__name__
    return client


def noise_like(tensor: Tensor, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(tensor.numel())
    return torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * scale


def memory_replaced(outputs: Any, frame: int) -> None:
    outputs[frame]["maskmem_features"] = noise_like(outputs[frame]["maskmem_features"])


def edited_in_place(outputs: Any, frame: int) -> None:
    with torch.inference_mode():
        outputs[frame]["maskmem_features"].mul_(0.3)
        outputs[frame]["obj_ptr"][:] = 0.1


def pointer_and_masks_replaced(outputs: Any, frame: int) -> None:
    output = outputs[frame]
    output["obj_ptr"] = noise_like(output["obj_ptr"])
    output["pred_masks"] = noise_like(output["pred_masks"], 5)


def output_replaced(outputs: Any, frame: int) -> None:
    """Replace an output by a plain dict with the five keys and one more."""
    old = outputs[frame]
    outputs[frame] = {
        "maskmem_features": noise_like(old["maskmem_features"]),
        "maskmem_pos_enc": [x.clone() for x in old["maskmem_pos_enc"]],
        "pred_masks": noise_like(old["pred_masks"], 5),
        "obj_ptr": noise_like(old["obj_ptr"]),
        "object_score_logits": old["object_score_logits"] - 1,
        "note": "by hand",
    }


def output_updated(outputs: Any, frame: int) -> None:
    """Replace outputs in one `update`, from a copy without the unread presence logits."""
    old = dict(outputs[frame])
    del old["object_score_logits"]
    old["maskmem_features"] = noise_like(old["maskmem_features"])
    outputs.update({frame: old})


def all_but_one_dropped(outputs: Any, frame: int) -> None:
    """Drop all tracked frames but one."""
    output = dict(outputs[frame], obj_ptr=noise_like(outputs[frame]["obj_ptr"]))
    outputs.clear()
    outputs |= {frame: output}


EDITS = [
    memory_replaced,
    edited_in_place,
    pointer_and_masks_replaced,
    output_replaced,
    output_updated,
    all_but_one_dropped,
]


def streaming_by_hand(package: Package, video: Path) -> Any:
    return stream(package, by_hand(package, LazyFrames(1)))


def streaming_opened(package: Package, video: Path) -> Any:
    return stream(package, opened(package, video))


CLIENTS: list[Client] = [
    hand_made_state,
    hand_made_with_text_devices,
    containers_held,
    streaming_by_hand,
    streaming_opened,
    grown_on_the_way,
    other_images,
    *(edited(change) for change in EDITS),
]


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: Client, packages: Both, video: Path) -> None:
    result = agree(client, packages, video)
    assert not isinstance(result, Exception), result


@pytest.mark.slow
@pytest.mark.parametrize("change", EDITS)
def test_edits_have_an_effect(change: Change, packages: Both, video: Path) -> None:
    """Otherwise agreement would prove nothing."""
    _, ours = packages
    edit = edited(change)(ours, video)
    none = edited(lambda outputs, frame: None)(ours, video)
    assert_same(edit[0], none[0])
    assert not torch.equal(edit[2][-1][2], none[2][-1][2])


# Copies of a state


def halfway(package: Package, state: Any) -> Any:
    click(package, state)
    logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=1))
    return state


def onward(package: Package, state: Any) -> Any:
    predictor = package.predictor
    predictor.add_new_points_or_box(state, 1, 1, [[100, 50]], [0])
    predictor.add_new_points_or_box(state, 1, 2, [[40, 40]], [1])
    return logits_of(predictor.propagate_in_video(state, start_frame_idx=0)), list(state["obj_ids"])


def plain_dicts(state: Any) -> dict[str, Any]:
    """Convert a state to plain dictionaries, as a program does that stores it in its own format."""

    def strip(value: Any) -> Any:
        return {k: strip(v) for k, v in value.items()} if isinstance(value, Mapping) else value

    return {key: state["images"] if key == "images" else strip(state[key]) for key in KEYS}


COPIES: list[Callable[[Any], Any]] = [
    dict,
    copy.deepcopy,
    plain_dicts,
    lambda state: pickle.loads(pickle.dumps(state)),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", [opened, lambda p, _: by_hand(p, LazyFrames(4))])
@pytest.mark.parametrize("copied", COPIES)
def test_copy_of_a_state(
    copied: Callable[[Any], Any], make: Client, packages: Both, video: Path
) -> None:
    """A copy continues from the state, independently of it."""

    def client(package: Package) -> Any:
        return onward(package, copied(halfway(package, make(package, video))))

    result = agree(client, packages)
    assert not isinstance(result, Exception), result


def test_deep_copy_is_independent(packages: Both) -> None:
    _, ours = packages
    state = halfway(ours, by_hand(ours, LazyFrames(4)))
    other = copy.deepcopy(state)
    expected = onward(ours, copy.deepcopy(state))
    ours.predictor.reset_state(state)
    assert state["obj_ids"] == []
    assert other["obj_ids"] == [1]
    assert_same(onward(ours, other), expected)


def test_a_copy_has_no_pool(packages: Both, video: Path) -> None:
    """A pool looks up memories by `id`, which in a copy may belong to another tensor."""
    _, ours = packages
    for make in (opened, lambda p, _: by_hand(p, LazyFrames(4))):
        state = halfway(ours, make(ours, video))
        session = as_session(state)
        assert session._pool is not None
        assert as_session(copy.deepcopy(state))._pool is None
        assert as_session(state)._pool is session._pool is not None


# Features


@pytest.mark.parametrize("make", [opened, lambda p, _: by_hand(p, LazyFrames(3))])
def test_image_features(make: Client, packages: Both, video: Path) -> None:
    """Features are expanded to a batch of objects, and cached."""

    def client(package: Package) -> Any:
        state = make(package, video)
        with torch.inference_mode():
            found = package.predictor._get_image_feature(state, 2, 3)
        ((frame, (image, _)),) = state["cached_features"].items()
        before = state["cached_features"]
        package.predictor._get_image_feature(state, frame_idx=2, batch_size=1)
        assert state["cached_features"] is before
        return list(found), frame, image

    result = agree(client, packages)
    assert not isinstance(result, Exception), result


def test_cached_features_are_used(packages: Both, video: Path) -> None:
    """A program encodes all frames beforehand and stores them in the state."""

    def client(package: Package) -> Any:
        state = by_hand(package, LazyFrames(4))
        cached = {}
        for t in (3, 1):
            package.predictor._get_image_feature(state, t, 1)
            cached.update(state["cached_features"])
        # Frame 1 looks like frame 3.
        state["cached_features"] = {1: cached[3]}
        return click(package, state, frame=1)

    result = agree(client, packages)
    assert not isinstance(result, Exception), result


# Invalid states


def test_keys_that_are_missing(packages: Both) -> None:
    _, ours = packages
    state = by_hand(ours, LazyFrames(3))
    del state["constants"], state["frames_tracked_per_obj"]
    with pytest.raises(InputError, match="lacks constants, frames_tracked_per_obj"):
        click(ours, state)


def test_not_a_state(packages: Both) -> None:
    _, ours = packages
    with pytest.raises(InputError, match="must come from init_state, not list"):
        click(ours, [])
