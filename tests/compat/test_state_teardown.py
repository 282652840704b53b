"""Compatibility with `sam2`: states that programs take apart, clear and restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compat.clients import Client, Package, agree, assert_same, click, logits_of
from tests.compat.test_state_reading import KEYS, plain

Both = tuple[Package, Package]

PER_OBJECT = [key for key in KEYS if key.endswith("_per_obj")]
OF_OBJECTS = [*PER_OBJECT, "obj_id_to_idx", "obj_idx_to_id", "obj_ids"]


def tracked(package: Package, video: Path) -> Any:
    state = package.predictor.init_state(str(video))
    click(package, state, obj=1)
    click(package, state, frame=1, obj=2)
    logits_of(package.predictor.propagate_in_video(state))
    return state


def contents(state: Any) -> Any:
    return {key: plain(state[key]) for key in OF_OBJECTS}


def missing(call: Any) -> Any:
    """Return the key that a call misses."""
    with pytest.raises(KeyError) as caught:
        call()
    return caught.value.args


def dropped(package: Package, video: Path) -> Any:
    """label-studio drops what is large in a `finally`, and then the state."""
    state = tracked(package, video)
    answers = [
        len(state.pop("images")),
        state.pop("images", None),
        state.pop("constants", None) is not None,
        missing(lambda: state.pop("constants")),
        missing(lambda: state["images"]),
        state.get("images", "gone"),
        "images" in state,
        sorted(state),
        len(state),
    ]
    del state["cached_features"]
    answers.append(missing(lambda: state.__delitem__("cached_features")))
    key, value = state.popitem()
    answers += [key, plain(value), state.clear(), len(state), list(state)]
    answers.append(bool(missing(lambda: click(package, state))))
    return answers


def output_taken_apart(package: Package, video: Path) -> Any:
    """Fields that are not read again are dropped from outputs, and tracking continues."""
    state = tracked(package, video)
    outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    last, old = outputs[4], outputs[1]
    answers = [last.pop("maskmem_features"), last.pop("maskmem_features", None)]
    answers += [missing(lambda: last["maskmem_features"]), missing(lambda: last.pop("other"))]
    del last["obj_ptr"], last["object_score_logits"]
    answers += [list(last), len(last), "obj_ptr" in last, last.get("obj_ptr", 0), dict(last)]
    found = package.predictor.propagate_in_video(state, 2, 1)
    answers += [logits_of(found), old.popitem()[0], old.clear(), dict(old), len(old)]
    # Now a frame misses what it reads.
    found = package.predictor.propagate_in_video(state, 2, 1)
    answers += [bool(missing(lambda: logits_of(found)))]
    prompt = state["point_inputs_per_obj"][0][0]
    output = outputs[2]
    copies = [dict(output), {**output}, output.copy(), output | {"a": 1}, {"a": 1} | output]
    output |= {"b": 2}
    answers += [copies, list(reversed(output)), isinstance(output, dict), list(output.values())]
    return answers, prompt.pop("point_labels"), list(prompt), prompt.clear(), len(prompt)


def kept_while_others_go(package: Package, video: Path) -> Any:
    """Positions, pointers and presence of old frames go during propagation."""
    state = package.predictor.init_state(str(video))
    click(package, state)
    frames = []
    for frame, _, masks in package.predictor.propagate_in_video(state):
        frames.append(masks.clone())
        output = state["output_dict_per_obj"][0]["non_cond_frame_outputs"].get(frame, {})
        output.pop("pred_masks", None)
        output.pop("object_score_logits", None)
    kept = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    return frames, {t: sorted(output) for t, output in kept.items()}


def cleared_by_hand(package: Package, video: Path) -> Any:
    """Containers are cleared in place; the next object is the first one again."""
    state = tracked(package, video)
    for key in OF_OBJECTS:
        state[key].clear()
    empty = contents(state)
    answer = click(package, state, obj=7)
    frames = logits_of(package.predictor.propagate_in_video(state))
    return empty, answer, frames, contents(state)


def assigned_anew(package: Package, video: Path) -> Any:
    """New containers take the place of old ones, as `init_state` makes them."""
    state = tracked(package, video)
    for key in OF_OBJECTS:
        state[key] = [] if key == "obj_ids" else {}
    answer = click(package, state, obj=7)
    frames = logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=2))
    return answer, frames, contents(state)


def set_aside_and_restored(package: Package, video: Path) -> Any:
    """A second track starts in the same state; then the first one is continued."""
    state = tracked(package, video)
    aside = {key: state[key] for key in OF_OBJECTS}
    for key in OF_OBJECTS:
        state[key] = type(state[key])()
    other = click(package, state, obj=9)
    state.update(aside)
    corrected = package.predictor.add_new_points_or_box(state, 2, 2, [[100, 50]], [0])
    return other, corrected, logits_of(package.predictor.propagate_in_video(state, 2))


def one_object_restored(package: Package, video: Path) -> Any:
    """Memory of one object is cleared, deleted and replaced by plain dictionaries."""
    state = tracked(package, video)
    memory = state["output_dict_per_obj"]
    saved = plain(memory[1])
    memory[0]["non_cond_frame_outputs"].clear()
    state["frames_tracked_per_obj"][0].clear()
    del memory[1]
    answers = [missing(lambda: memory[1]), sorted(memory)]
    answers += [missing(lambda: logits_of(package.predictor.propagate_in_video(state)))]
    memory[1] = saved
    answers += [logits_of(package.predictor.propagate_in_video(state, 2))]
    del memory[0]["non_cond_frame_outputs"]
    answers += [missing(lambda: click(package, state, obj=1, frame=3)), sorted(memory[0])]
    memory[0]["non_cond_frame_outputs"] = {}
    return *answers, click(package, state, obj=1, frame=3)


def replaced_on_the_way(package: Package, video: Path) -> Any:
    """Memory of an object is replaced by a plain dict while the video is tracked."""
    state = package.predictor.init_state(str(video))
    click(package, state)
    frames = []
    for _, ids, masks in package.predictor.propagate_in_video(state):
        frames.append((list(ids), masks.clone()))
        state["output_dict_per_obj"][0] = plain(state["output_dict_per_obj"][0])
    return frames


def objects_removed(package: Package, video: Path) -> Any:
    """Containers that a program holds follow a removal and a reset."""
    state = tracked(package, video)
    click(package, state, frame=2, obj=3)
    held = {key: state[key] for key in PER_OBJECT}
    first = state["output_dict_per_obj"][0]
    package.predictor.remove_object(state, 2)
    after = {key: plain(value) for key, value in held.items()}, contents(state)
    package.predictor.reset_state(state)
    return after, held, plain(first), contents(state)


def a_dictionary(package: Package, video: Path) -> Any:
    """Programs test for `dict`, and merge and copy states."""
    state = tracked(package, video)
    copies = [dict(state), {**state}, state.copy(), state | {"mine": 1}, {"mine": 1} | state]
    state |= {"mine": 2}
    return [
        isinstance(state, dict),
        [sorted(copy) for copy in copies],
        all(copy["obj_ids"] is state["obj_ids"] for copy in copies),
        [logits_of(package.predictor.propagate_in_video(copy, 2)) for copy in copies[:3]],
        list(state),
        list(reversed(state)),
        state == dict(state),
    ]


CLIENTS: list[Client] = [
    dropped,
    output_taken_apart,
    kept_while_others_go,
    cleared_by_hand,
    assigned_anew,
    set_aside_and_restored,
    one_object_restored,
    replaced_on_the_way,
    objects_removed,
    a_dictionary,
]


@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: Client, packages: Both, video: Path) -> None:
    result = agree(client, packages, video)
    assert not isinstance(result, Exception), result


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key(key: str, packages: Both, video: Path) -> None:
    """Calls that do not read the key go on; others raise KeyError, as `sam2` does, or do not need
    it."""

    def outcomes(package: Package) -> list[Any]:
        predictor = package.predictor
        state = tracked(package, video)
        del state[key]
        found: list[Any] = []
        for call in (
            lambda: click(package, state, frame=2, obj=1),
            lambda: logits_of(predictor.propagate_in_video(state, 2, 1)),
            lambda: predictor.reset_state(state),
        ):
            try:
                found.append(call())
            except Exception as error:
                found.append(error)
        return found

    ref, ours = packages
    with ref.exact():
        expected = outcomes(ref)
    for actual, answer in zip(outcomes(ours), expected, strict=True):
        if not isinstance(answer, Exception):
            assert_same(actual, answer)
        elif isinstance(actual, Exception):
            assert type(actual) is type(answer) is KeyError
            assert actual.args == answer.args


def test_a_popped_tensor_is_the_stored_one(packages: Both, video: Path) -> None:
    _, ours = packages
    state = tracked(ours, video)
    output = state["output_dict_per_obj"][0]["non_cond_frame_outputs"][3]
    seen = output["maskmem_features"]
    assert output.pop("maskmem_features") is seen
    output["maskmem_features"] = torch.zeros_like(seen)
    assert not output["maskmem_features"].any()
