"""Selection of memories, compared with a plain statement of the rule and with `sam2`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference  # isort: skip  # before fastsam2

import sam2.modeling.sam2_base as official_base  # isort: skip
from sam2.modeling.sam2_utils import select_closest_cond_frames as official_closest  # isort: skip

from fastsam2.modeling.memory_selection import MemorySelection, SelectionRules
from fastsam2.modeling.sam2_utils import select_closest_cond_frames
from fastsam2.predictors.object_memory import ObjectMemory
from fastsam2.types import FrameOutput

assert reference.CONFIGS

Read = list[tuple[int, int]]


class Case(NamedTuple):
    """A state of a session: the stored outputs, and the next frame."""

    frame_idx: int
    conditioning: list[int]
    tracked: list[int]
    num_frames: int
    reverse: bool
    rules: SelectionRules


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_frames = draw(st.integers(1, 30))
    frames = st.lists(st.integers(0, num_frames - 1), unique=True, max_size=num_frames)
    conditioning = draw(
        st.lists(st.integers(0, num_frames - 1), unique=True, min_size=1, max_size=8)
    )
    tracked = draw(st.one_of(frames, st.just(list(range(num_frames)))))
    rules = SelectionRules(
        num_maskmem=draw(st.integers(1, 9)),
        max_cond_frames=draw(st.sampled_from([-1, 2, 3, 4])),
        temporal_stride=draw(st.integers(1, 5)),
        use_obj_ptrs=draw(st.booleans()),
        max_obj_ptrs=draw(st.integers(2, 16)),
        signed_ptr_distance=draw(st.booleans()),
        only_past_ptrs=draw(st.booleans()),
    )
    return Case(
        frame_idx=draw(st.integers(0, num_frames - 1)),
        conditioning=conditioning,
        # A frame is either conditioning or tracked.
        tracked=[t for t in tracked if t not in conditioning],
        num_frames=num_frames,
        reverse=draw(st.booleans()),
        rules=rules,
    )


def remember(case: Case) -> ObjectMemory:
    """Store memory whose tensors hold the number of their frame."""

    def output(t: int) -> FrameOutput:
        return FrameOutput(
            maskmem_features=torch.full((1, 1, 1, 1), float(t)),
            maskmem_pos_enc=[torch.zeros(1, 1, 1, 1)],
            pred_masks=torch.zeros(1, 1, 1, 1),
            obj_ptr=torch.full((1, 1), float(t)),
            object_score_logits=torch.zeros(1, 1),
        )

    return ObjectMemory(
        cond_frame_outputs={t: output(t) for t in case.conditioning},
        non_cond_frame_outputs={t: output(t) for t in case.tracked},
    )


def select(case: Case) -> MemorySelection:
    return remember(case).select(
        case.frame_idx, case.rules, num_frames=case.num_frames, reverse=case.reverse
    )


def what_is_read(selection: MemorySelection) -> tuple[Read, Read]:
    """Return temporal position and frame of each memory, distance and frame of each pointer."""
    frames = [(place, int(out.maskmem_features.item())) for place, out in selection.frames]
    return frames, [(distance, int(ptr.item())) for distance, ptr in selection.pointers]


def stated(case: Case) -> tuple[Read, Read]:
    """Select by the plain rule: conditioning frames, every stride-th past frame, past pointers."""
    now, rules, step = case.frame_idx, case.rules, 1 if case.reverse else -1
    chosen = dict.fromkeys(case.conditioning)
    if 0 <= rules.max_cond_frames < len(chosen):
        chosen, _ = official_closest(now, chosen, rules.max_cond_frames)
    known = {*case.tracked, *(t for t in case.conditioning if t not in chosen)}

    # The frame just passed, then frames on multiples of the stride, two or more steps away.
    grid = now + 2 * step
    while grid % rules.temporal_stride:
        grid += step
    passed = [now + step] + [grid + i * step * rules.temporal_stride for i in range(20)]
    recent = passed[: max(rules.num_maskmem - 1, 0)]
    frames = [(0, t) for t in chosen]
    frames += [
        (rules.num_maskmem - distance, t)
        for distance, t in reversed(list(enumerate(recent, start=1)))
        if t in known
    ]

    pointers = []
    if rules.use_obj_ptrs:
        for t in chosen:
            ago = (t - now) * step
            if ago >= 0 or not rules.only_past_ptrs:
                pointers.append((ago if rules.signed_ptr_distance else abs(ago), t))
        reach = min(rules.max_obj_ptrs, case.num_frames)
        back = [(ago, now + ago * step) for ago in range(1, reach)]
        pointers += [(ago, t) for ago, t in back if t in known]
    return frames, pointers


def official(case: Case) -> tuple[Read, Read]:
    """Return the memories that `sam2` passes to its attention, identified by their values."""
    rules, memory, seen = case.rules, remember(case), {}

    def attention(**kwargs: Any) -> torch.Tensor:
        seen.update(kwargs)
        return kwargs["curr"][0]

    model = SimpleNamespace(
        hidden_dim=1,
        mem_dim=1,
        num_maskmem=rules.num_maskmem,
        max_cond_frames_in_attn=rules.max_cond_frames,
        memory_temporal_stride_for_eval=rules.temporal_stride,
        use_obj_ptrs_in_encoder=rules.use_obj_ptrs,
        max_obj_ptrs_in_encoder=rules.max_obj_ptrs,
        only_obj_ptrs_in_the_past_for_eval=rules.only_past_ptrs,
        use_signed_tpos_enc_to_obj_ptrs=rules.signed_ptr_distance,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=False,
        obj_ptr_tpos_proj=torch.nn.Identity(),
        training=False,
        # Row i is added to a memory at temporal position num_maskmem - 1 - i.
        maskmem_tpos_enc=(rules.num_maskmem - 1.0 - torch.arange(rules.num_maskmem)).view(-1, 1, 1),
        memory_attention=attention,
    )
    with mock.patch.object(official_base, "get_1d_sine_pe", lambda x, dim: x.unsqueeze(-1)):
        official_base.SAM2Base._prepare_memory_conditioned_features(
            model,
            frame_idx=case.frame_idx,
            is_init_cond_frame=False,
            current_vision_feats=[torch.zeros(1, 1, 1)],
            current_vision_pos_embeds=[torch.zeros(1, 1, 1)],
            feat_sizes=[(1, 1)],
            output_dict={key: dict(memory[key]) for key in memory},
            num_frames=case.num_frames,
            track_in_reverse=case.reverse,
        )
    pairs = list(zip(seen["memory_pos"].flatten(), seen["memory"].flatten().int(), strict=True))
    split = len(pairs) - seen["num_obj_ptr_tokens"]
    span = min(rules.max_obj_ptrs, case.num_frames) - 1
    frames = [(int(place), int(t)) for place, t in pairs[:split]]
    return frames, [(round(float(x) * span), int(t)) for x, t in pairs[split:]]


@settings(max_examples=200, deadline=None)
@given(cases())
def test_selection_is_the_rule(case: Case) -> None:
    assert what_is_read(select(case)) == stated(case)


@settings(max_examples=100, deadline=None)
@given(cases().filter(lambda case: case.num_frames > 1))
def test_selection_is_that_of_sam2(case: Case) -> None:
    assert what_is_read(select(case)) == official(case)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_selection_of_a_stream(case: Case) -> None:
    """Forward in time, an unknown length changes the selection of short videos only."""
    long = case._replace(num_frames=max(case.num_frames, case.rules.max_obj_ptrs), reverse=False)
    stream = remember(long).select(long.frame_idx, long.rules, num_frames=None, reverse=False)
    assert what_is_read(stream) == what_is_read(select(long))
    assert stream.pointer_span == select(long).pointer_span == long.rules.max_obj_ptrs - 1


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-5, 40),
    st.lists(st.integers(0, 30), unique=True, max_size=10),
    st.sampled_from([-1, 2, 3, 5]),
)
def test_closest_conditioning_frames(frame_idx: int, frames: list[int], limit: int) -> None:
    outputs = {t: f"output {t}" for t in frames}
    actual = select_closest_cond_frames(frame_idx, outputs, limit)
    expected = official_closest(frame_idx, outputs, limit)
    assert [list(x.items()) for x in actual] == [list(x.items()) for x in expected]
    assert outputs == {t: f"output {t}" for t in frames}


@pytest.mark.parametrize("limit", [0, 1])
def test_fewer_than_two_conditioning_frames_is_an_error(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        select_closest_cond_frames(3, {0: "a", 1: "b"}, limit)


def test_newest_output_of_a_frame() -> None:
    case = Case(0, [2], [2, 3], 5, False, SelectionRules(7, -1, 1, True, 16, True, True))
    memory = remember(case)
    assert memory.output(2) is memory["cond_frame_outputs"][2]
    assert memory.output(3) is memory["non_cond_frame_outputs"][3]
    assert memory.output(4) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), unique=True), st.integers(0, 20), st.integers(0, 8))
def test_dropped_tracked_frames(frames: list[int], centre: int, reach: int) -> None:
    rules = SelectionRules(7, -1, 1, True, 16, True, True)
    memory = remember(Case(0, [centre], frames, 21, False, rules))
    memory.forget_tracked_around(centre, reach)
    assert list(memory.non_cond_frame_outputs) == [t for t in frames if abs(t - centre) > reach]
    assert list(memory.cond_frame_outputs) == [centre]
