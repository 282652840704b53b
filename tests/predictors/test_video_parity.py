"""Whole sessions of the video predictor against `sam2`: same calls, same weights, same frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import reference
from tests.predictors.video_script import (
    Call,
    box,
    clear,
    mask,
    play,
    points,
    propagate,
    remove,
    reset,
)
from tests.support import SHALLOW, Pair, make_pair, write_clip

SCRIPTS: dict[str, list[Call]] = {
    "one click": [points(0, 1, [[50, 60]], [1]), propagate()],
    "positive and negative clicks": [
        points(0, 1, [[50, 60], [120, 30]], [1, 0]),
        points(0, 1, [[70, 80]], [1], clear_old_points=False),
        propagate(),
    ],
    "box": [box(0, 1, [20, 30, 90, 100]), propagate()],
    "box and click": [points(0, 1, [[60, 60]], [0], box=[20, 30, 90, 100]), propagate()],
    "fractions of the size": [
        points(0, 1, [[0.4, 0.5]], [1], normalize_coords=False),
        propagate(max_frame_num_to_track=3),
    ],
    "mask": [mask(0, 1, slice(30, 90), slice(40, 110)), propagate()],
    "empty mask": [mask(0, 1, slice(0, 0), slice(0, 0)), propagate()],
    "three objects on different frames": [
        points(0, 1, [[50, 60]], [1]),
        box(2, 5, [20, 20, 90, 100]),
        mask(3, 7, slice(30, 80), slice(40, 100)),
        propagate(),
    ],
    "corrections, then again": [
        points(0, 1, [[50, 60]], [1]),
        points(0, 2, [[120, 80]], [1]),
        propagate(),
        points(4, 1, [[100, 50]], [0]),
        points(4, 1, [[60, 70]], [1], clear_old_points=False),
        mask(5, 2, slice(30, 80), slice(40, 100)),
        propagate(),
    ],
    "reverse": [
        points(6, 1, [[50, 60]], [1]),
        points(3, 2, [[90, 60]], [1]),
        propagate(reverse=True),
        propagate(start_frame_idx=6),
        points(2, 1, [[100, 50]], [0]),
        propagate(start_frame_idx=5, max_frame_num_to_track=4, reverse=True),
    ],
    "reverse from the first frame": [points(0, 1, [[50, 60]], [1]), propagate(reverse=True)],
    "an object added after tracking": [
        points(0, 1, [[50, 60]], [1]),
        propagate(max_frame_num_to_track=4),
        points(3, 2, [[120, 80]], [1]),
        propagate(start_frame_idx=2),
    ],
    "an object removed": [
        points(0, 1, [[50, 60]], [1]),
        points(1, 2, [[120, 80]], [1]),
        points(1, 3, [[20, 30]], [1]),
        propagate(max_frame_num_to_track=3),
        remove(2),
        propagate(start_frame_idx=2),
        remove(1),
        remove(3),
    ],
    "eight objects": [
        *(points(0, i, [[20 + 15 * i, 30 + 8 * i]], [1]) for i in range(1, 6)),
        *(box(0, i, [15 * (i - 6), 20, 15 * (i - 6) + 60, 90]) for i in range(6, 9)),
        propagate(),
        mask(4, 3, slice(30, 80), slice(40, 100)),
        remove(6),
        points(2, 8, [[100, 50]], [0]),
        propagate(start_frame_idx=2),
        propagate(start_frame_idx=5, reverse=True),
    ],
    "prompts taken back": [
        points(0, 1, [[50, 60]], [1]),
        points(2, 1, [[120, 80]], [1]),
        points(2, 2, [[20, 80]], [1]),
        clear(2, 1),
        propagate(),
        points(5, 1, [[100, 50]], [0]),
        clear(5, 1),
        propagate(start_frame_idx=4),
        clear(2, 2),
    ],
    "reset": [
        points(0, 1, [[50, 60]], [1]),
        propagate(max_frame_num_to_track=2),
        reset(),
        points(3, 9, [[120, 80]], [1]),
        propagate(),
    ],
}


def assert_logits_agree(
    ref: list[torch.Tensor],
    ours: list[torch.Tensor],
    overlapping: list[torch.Tensor] | None = None,
) -> None:
    """Check that logits agree within 1e-3 of their standard deviation over the session.

    If each pixel belongs to the best object only, by the `overlapping` logits, it may belong to
    another one that is equally good within that tolerance.
    """
    assert len(ref) == len(ours) > 0
    logits = [x for x in ref if x.ndim == 4]
    scale = torch.cat([x.flatten() for x in logits]).std() if logits else torch.tensor(1.0)
    for i, (a, b) in enumerate(zip(ref, ours, strict=True)):
        assert a.shape == b.shape, i
        if a.ndim < 4:
            assert torch.equal(a, b), i  # frame numbers and object ids
        else:
            differ = ((a - b).abs() > 1e-3 * scale).any(0)
            if overlapping is not None and len(a) > 1:
                best, second = overlapping[i].topk(2, dim=0).values
                assert differ.float().mean() <= 1e-3, i
                differ &= best - second > 2e-3 * scale
            assert not differ.any(), i


def compare(pair: Pair, video: Path, script: list[Call]) -> list[torch.Tensor]:
    with reference.float32_memory():
        ref = play(pair.ref, video, script)
        overlapping = None
        if pair.ref.non_overlap_masks:
            pair.ref.non_overlap_masks = False
            overlapping = play(pair.ref, video, script)
            pair.ref.non_overlap_masks = True
    ours = play(pair.ours, video, script)
    assert_logits_agree(ref, ours, overlapping)
    return ours


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_session(tiny_pair: Pair, clip: Path, script: list[Call]) -> None:
    compare(tiny_pair, clip, script)


EVERY_CONFIG = [
    points(0, 1, [[50, 60], [120, 30]], [1, 0]),
    mask(1, 2, slice(30, 80), slice(40, 100)),
    propagate(max_frame_num_to_track=3),
    box(2, 1, [20, 20, 90, 100]),
    propagate(start_frame_idx=3, max_frame_num_to_track=2, reverse=True),
    remove(2),
]


@pytest.mark.slow
def test_session_of_every_config(pair: Pair, clip: Path) -> None:
    """Also checks that masks have foreground and background, or agreement would prove little."""
    ours = compare(pair, clip, EVERY_CONFIG)
    logits = [x for x in ours if x.ndim == 4]
    inside = [float((x[0] > 0).float().mean()) for x in logits]
    assert sum(0.01 < part < 0.99 for part in inside) >= 3, inside
    assert sum(bool(x[0].min() > -1000) for x in logits) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["sam2-tiny", "sam2.1-tiny"], indirect=True)
def test_masks_agree_with_bfloat16_memory(pair: Pair, clip: Path) -> None:
    """With the defaults of both, masks are equal on all but 1e-4 of the pixels.

    Every object is prompted on the first frame: in float32 `sam2` cannot read bfloat16 memory
    without pointers.
    """
    script = [
        points(0, 1, [[50, 60], [120, 30]], [1, 0]),
        mask(0, 2, slice(30, 80), slice(40, 100)),
        propagate(max_frame_num_to_track=3),
        box(2, 1, [20, 20, 90, 100]),
        propagate(start_frame_idx=2, max_frame_num_to_track=2),
    ]
    pair.ours.memory_dtype = torch.bfloat16
    try:
        ref, ours = play(pair.ref, clip, script), play(pair.ours, clip, script)
    finally:
        pair.ours.memory_dtype = torch.float32
    different = sum(int(((a > 0) != (b > 0)).sum()) for a, b in zip(ref, ours, strict=True))
    assert different <= 1e-4 * sum(a.numel() for a in ref)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("++model.max_cond_frames_in_attn=2",),
        ("++model.memory_temporal_stride_for_eval=3",),
        ("++model.non_overlap_masks=true",),
        ("++model.add_all_frames_to_correct_as_cond=true",),
        ("++model.use_mask_input_as_output_without_sam=false",),
        ("++model.only_obj_ptrs_in_the_past_for_eval=false",),
        ("++model.soft_no_obj_ptr=true",),
        ("++model.num_maskmem=0",),
        ("++model.multimask_output_for_tracking=false",),
    ],
    ids=lambda o: o[0].removeprefix("++model."),
)
def test_options(long_clip: Path, overrides: tuple[str, ...]) -> None:
    script = [
        points(2, 1, [[50, 60]], [1]),
        points(2, 2, [[60, 60]], [1]),
        mask(6, 1, slice(30, 80), slice(40, 100)),
        points(9, 1, [[80, 60]], [1]),
        propagate(start_frame_idx=6, max_frame_num_to_track=6),
        points(8, 1, [[100, 50]], [0]),
        propagate(start_frame_idx=10, max_frame_num_to_track=5, reverse=True),
    ]
    if "num_maskmem" in overrides[0]:
        # Without memory the reference cannot encode a prompt, but it can segment one.
        script = script[:2]
    compare(make_pair("sam2.1-tiny", 128, (*SHALLOW, *overrides)), long_clip, script)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [192, 320])
def test_other_image_sizes(clip: Path, image_size: int) -> None:
    """Multiples of 64 that do not fit windows of 14 or grids of powers of two."""
    script = [points(0, 1, [[50, 60]], [1]), propagate(max_frame_num_to_track=3)]
    compare(make_pair("sam2.1-tiny", image_size), clip, script)


@pytest.mark.slow
def test_more_frames_than_memory_and_pointers_reach(tiny_pair: Pair, long_clip: Path) -> None:
    compare(tiny_pair, long_clip, [points(1, 1, [[50, 60]], [1]), propagate()])


@pytest.mark.slow
def test_objects_added_and_removed(tiny_pair: Pair, long_clip: Path) -> None:
    """Added on frames 0, 5 and 9, one removed between them, one corrected; then backward."""
    script = [
        points(0, 1, [[50, 60]], [1]),
        propagate(max_frame_num_to_track=5),
        box(5, 2, [20, 20, 90, 100]),
        propagate(start_frame_idx=5, max_frame_num_to_track=4),
        mask(9, 3, slice(30, 80), slice(40, 100)),
        points(8, 2, [[100, 50]], [0]),
        propagate(start_frame_idx=9, max_frame_num_to_track=3),
        remove(1),
        propagate(start_frame_idx=11),
        propagate(start_frame_idx=12, reverse=True),
    ]
    compare(tiny_pair, long_clip, script)


@pytest.mark.slow
def test_options_are_read_at_each_call(tiny_pair: Pair, clip: Path) -> None:
    script = [
        points(0, 1, [[50, 60]], [1]),
        box(0, 2, [90, 60, 150, 110]),
        propagate(max_frame_num_to_track=5),
    ]
    plain = play(tiny_pair.ours, clip, script)
    changes = {"non_overlap_masks": True, "max_obj_ptrs_in_encoder": 2, "num_maskmem": 3}
    for name, value in changes.items():
        before = getattr(tiny_pair.ours, name)
        for model in tiny_pair[1:]:
            setattr(model, name, value)
        try:
            compare(tiny_pair, clip, script)
            changed = play(tiny_pair.ours, clip, script)
        finally:
            for model in tiny_pair[1:]:
                setattr(model, name, before)
        assert any(not torch.equal(a, b) for a, b in zip(plain, changed, strict=True)), name


@pytest.mark.slow
def test_real_shapes(tmp_path: Path) -> None:
    """1024 px."""
    pair = make_pair("sam2.1-tiny", 1024)
    video = write_clip(tmp_path, frames=3, height=270, width=480)
    script = [points(0, 1, [[150, 130]], [1]), box(0, 2, [60, 60, 300, 200]), propagate()]
    compare(pair, video, script)
