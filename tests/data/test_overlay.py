from __future__ import annotations

import numpy as np
import pytest

from fastsam2.data.overlay import draw_overlay
from fastsam2.data.palette import davis_palette, object_color
from fastsam2.errors import InputError

FRAME = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
MASK = np.zeros((240, 320), bool)
MASK[80:180, 100:220] = True


def test_the_tint_is_a_blend_inside_and_nothing_outside() -> None:
    drawn = draw_overlay(FRAME, {1: MASK}, alpha=0.25, outline=0, labels=False)
    np.testing.assert_array_equal(drawn[~MASK], FRAME[~MASK])
    expected = FRAME[MASK] * 0.75 + np.array(object_color(1)) * 0.25
    np.testing.assert_allclose(drawn[MASK], expected, atol=1)


def test_the_outline_is_opaque_and_hugs_the_mask() -> None:
    drawn = draw_overlay(FRAME, {1: MASK}, labels=False)
    inked = (drawn == object_color(1)).all(axis=2)
    rim = MASK.copy()
    rim[81:179, 101:219] = False
    assert (inked >= rim).all()
    assert not inked[~MASK].any()
    changed_outside = (drawn != FRAME).any(axis=2) & ~MASK
    rows, columns = np.nonzero(changed_outside)
    assert {rows.min(), rows.max(), columns.min(), columns.max()} == {79, 180, 99, 220}


def test_the_outline_grows_with_the_frame() -> None:
    def ink(scale: int) -> int:
        mask = MASK.repeat(scale, 0).repeat(scale, 1)
        frame = FRAME.repeat(scale, 0).repeat(scale, 1)
        drawn = draw_overlay(frame, {1: mask}, alpha=0, labels=False)
        return int((drawn[120 * scale, : 160 * scale] == object_color(1)).all(axis=1).sum())

    assert [ink(scale) for scale in (1, 3, 6)] == [1, 2, 4]


def test_an_object_at_the_rim_of_the_frame_gets_no_outline_there() -> None:
    mask = np.zeros((240, 320), bool)
    mask[:60, 200:] = True
    drawn = draw_overlay(FRAME, {1: mask}, alpha=0, labels=False)
    np.testing.assert_array_equal(drawn[0, 250], FRAME[0, 250])
    np.testing.assert_array_equal(drawn[30, 319], FRAME[30, 319])


@pytest.mark.parametrize("corner", [(0, 0), (0, 310), (230, 0), (230, 310)])
def test_labels_stay_within_the_frame(corner: tuple[int, int]) -> None:
    row, column = corner
    mask = np.zeros((240, 320), bool)
    mask[row : row + 10, column : column + 10] = True
    plain = draw_overlay(FRAME, {123: mask}, labels=False)
    drawn = draw_overlay(FRAME, {123: mask})
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    assert len(rows) > 150
    assert abs(rows.mean() - row) < 30
    assert abs(columns.mean() - column) < 30


def test_the_frame_and_empty_masks_are_left_alone() -> None:
    before = FRAME.copy()
    drawn = draw_overlay(FRAME, {1: np.zeros_like(MASK)})
    np.testing.assert_array_equal(drawn, FRAME)
    draw_overlay(FRAME, {1: MASK})
    np.testing.assert_array_equal(FRAME, before)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"object 7 is \[10, 10\].*\[240, 320\]"):
        draw_overlay(FRAME, {7: np.zeros((10, 10), bool)})


def test_the_palette_is_that_of_pascal_voc() -> None:
    def slow(label: int) -> list[int]:
        color = [0, 0, 0]
        for shift in range(7, -1, -1):
            for channel in range(3):
                color[channel] |= ((label >> channel) & 1) << shift
            label >>= 3
        return color

    np.testing.assert_array_equal(davis_palette(), [slow(label) for label in range(256)])


def test_objects_have_colours_of_their_own() -> None:
    assert len({object_color(obj_id) for obj_id in range(60)}) == 60
