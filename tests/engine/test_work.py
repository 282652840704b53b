"""FLOPs relative to `sam2`, counted on tensors without data."""

from __future__ import annotations

import pytest

from bench.work import count_ours, count_theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objects", "attention", "frame"), [(1, 0.70, 0.79), (8, 0.67, 0.69)], ids=["1", "8"]
)
def test_at_full_memory(objects: int, attention: float, frame: float) -> None:
    """7 memories and 16 pointers at 1024 px: an upper limit on the ratio of FLOPs to `sam2`."""
    theirs, ours = (count("sam2.1-tiny", objects) for count in (count_theirs, count_ours))
    # Derived by arithmetic: 605.5 GFLOP per object.
    assert abs(theirs["memory attention"] / (605.5e9 * objects) - 1) < 0.01
    assert ours["memory attention"] <= attention * theirs["memory attention"]
    assert sum(ours.values()) <= frame * sum(theirs.values())
