from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from fastsam2.data.rle import (
    PackedMasks,
    area,
    box_from_mask,
    decode_rle,
    encode_mask,
    encode_rle,
    rle_counts,
)
from fastsam2.errors import InputError

# pycocotools and NumPy 2 disagree about a keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = hnp.arrays(np.bool_, SHAPES)


def _runs(height: int, width: int, lengths: list[int]) -> Any:
    """A mask of these runs down its columns, as far as they go."""
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)[: height * width]
    mask = np.zeros(height * width, bool)
    mask[: len(values)] = values
    return mask.reshape((height, width), order="F")


# Long runs of very different lengths need several groups, and negative differences.
LONG = st.builds(
    _runs, st.integers(1, 300), st.integers(1, 300), st.lists(st.integers(0, 20000), max_size=12)
)


@given(MASKS | LONG)
def test_it_is_what_pycocotools_writes(mask: Any) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_rle(mask)
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(decode_rle(ours), mask)
    np.testing.assert_array_equal(decode_rle(theirs), mask)
    assert area(ours) == coco.area(theirs)
    assert (box_from_mask(mask) or [0, 0, 0, 0]) == coco.toBbox(theirs).tolist()
    assert encode_mask(mask) == (ours, box_from_mask(mask), area(ours))


@given(MASKS)
def test_plain_counts_are_what_pycocotools_reads(mask: Any) -> None:
    plain = {"size": list(mask.shape), "counts": rle_counts(mask)}
    theirs = coco.frPyObjects(plain, *mask.shape)
    np.testing.assert_array_equal(coco.decode(theirs), mask)
    np.testing.assert_array_equal(decode_rle(plain), mask)
    assert area(plain) == mask.sum()


@given(hnp.arrays(np.bool_, st.tuples(st.integers(0, 4), st.integers(1, 20), st.integers(1, 20))))
def test_masks_of_a_batch_are_independent(masks: Any) -> None:
    """Runs do not continue from one mask into the next."""
    packed = PackedMasks.of(torch.from_numpy(masks))
    np.testing.assert_array_equal(packed.masks, masks)
    assert packed.encode() == [encode_mask(mask) for mask in masks]
    assert packed.rle() == [encode_rle(mask) for mask in masks]


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (720, 1280)])
def test_empty_and_full_masks(shape: tuple[int, int], value: bool) -> None:
    mask = np.full(shape, value)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == theirs["counts"].decode()
    assert rle_counts(mask) == ([0, mask.size] if value else [mask.size])
    assert box_from_mask(mask) == ([0, 0, shape[1], shape[0]] if value else None)


def test_integers_count_as_masks_but_logits_do_not() -> None:
    mask = np.array([[0, 3], [1, 0]])
    assert encode_rle(mask) == encode_rle(mask != 0)
    for wrong in (mask.astype(float), mask[0], mask[None]):
        with pytest.raises(InputError, match=r"bool array \[H, W\]"):
            encode_rle(wrong)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5, 5], "10 pixels, not 4x4"),
        ([20, -4], "pixels"),
        ("o", "not the compressed"),
        ("é", "not"),
    ],
)
def test_malformed_counts_are_refused(counts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_rle({"size": [4, 4], "counts": counts})
