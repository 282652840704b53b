"""A long session of random actions, compared with `sam2` after every action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import reference
from tests.predictors.test_video_parity import assert_logits_agree
from tests.predictors.video_script import Call, box, clear, mask, points, propagate, remove, reset
from tests.support import SHALLOW, make_pair, write_clip

FRAMES, HEIGHT, WIDTH = 12, 120, 160


class RandomUser:
    """Draws actions that are valid after the earlier ones."""

    def __init__(self, seed: int, state: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.state = state  # that of `sam2`
        #: prompted frames of each object
        self.prompted: dict[int, set[int]] = {}
        self.counts: dict[str, int] = {}

    def action(self) -> tuple[str, Call]:
        kinds = {
            "points": 4.0,
            "more points": 2.0,
            "box": 1.5,
            "mask": 1.5,
            "propagate": 5.0,
            "reverse": 2.0,
            "clear": 1.0,
            "remove": 0.7,
            "reset": 0.1,
        }
        if not self.prompted:
            kinds = {"points": 1.0, "box": 1.0, "mask": 1.0}
        weights = np.array(list(kinds.values()))
        name = str(self.rng.choice(list(kinds), p=weights / weights.sum()))
        if name == "clear" and not self._clearable():
            name = "points"
        self.counts[name] = self.counts.get(name, 0) + 1
        return name, getattr(self, "_" + name.replace(" ", "_"))()

    def _target(self) -> tuple[int, int]:
        """Draw a frame, and an existing or new object."""
        frame, obj = int(self.rng.integers(FRAMES)), int(self.rng.integers(1, 5))
        self.prompted.setdefault(obj, set()).add(frame)
        return frame, obj

    def _clicks(self) -> tuple[list[list[float]], list[int]]:
        n = int(self.rng.integers(1, 4))
        xy = self.rng.uniform([5, 5], [WIDTH - 5, HEIGHT - 5], (n, 2)).round().tolist()
        return xy, [1, *self.rng.integers(0, 2, n - 1).tolist()]

    def _points(self) -> Call:
        return points(*self._target(), *self._clicks())

    def _more_points(self) -> Call:
        return points(*self._target(), *self._clicks(), clear_old_points=False)

    def _box(self) -> Call:
        x, y = self.rng.uniform(0, 60, 2).round().tolist()
        return box(*self._target(), [x, y, x + 70, y + 50])

    def _mask(self) -> Call:
        y, x = self.rng.integers(0, 60, 2).tolist()
        return mask(*self._target(), slice(y, y + 40), slice(x, x + 60))

    def _propagate(self) -> Call:
        start, length = int(self.rng.integers(FRAMES)), int(self.rng.integers(0, 5))
        return propagate(start_frame_idx=start, max_frame_num_to_track=length)

    def _reverse(self) -> Call:
        start, length = int(self.rng.integers(1, FRAMES)), int(self.rng.integers(0, 5))
        return propagate(start_frame_idx=start, max_frame_num_to_track=length, reverse=True)

    def _clearable(self) -> list[tuple[int, int]]:
        """Return (frame, object) pairs with other prompts left: `sam2` fails without any."""
        found = []
        for obj, frames in self.prompted.items():
            i = self.state["obj_id_to_idx"][obj]
            kinds = ("output_dict_per_obj", "temp_output_dict_per_obj")
            first = {t for kind in kinds for t in self.state[kind][i]["cond_frame_outputs"]}
            found += [(t, obj) for t in sorted(frames) if first - {t}]
        return found

    def _clear(self) -> Call:
        cases = self._clearable()
        frame, obj = cases[int(self.rng.integers(len(cases)))]
        self.prompted[obj].discard(frame)
        return clear(frame, obj)

    def _remove(self) -> Call:
        obj = int(self.rng.choice(list(self.prompted)))
        del self.prompted[obj]
        return remove(obj)

    def _reset(self) -> Call:
        self.prompted.clear()
        return reset()


@pytest.mark.slow
def test_after_every_action(tmp_path: Path) -> None:
    pair = make_pair("sam2.1-tiny", 128, SHALLOW)
    video = write_clip(tmp_path, FRAMES, height=HEIGHT, width=WIDTH)
    with reference.float32_memory():
        theirs = pair.ref.init_state(str(video))
        ours = pair.ours.init_state(str(video))
        user = RandomUser(seed=0, state=theirs)
        for i in range(200):
            name, call = user.action()
            expected = call(pair.ref, theirs)
            actual = call(pair.ours, ours)
            try:
                assert_logits_agree(expected, actual)
            except AssertionError as error:
                raise AssertionError(f"action {i}, {name}") from error
            assert ours["obj_ids"] == theirs["obj_ids"]
    assert len(user.counts) == 9  # every kind of action has been done
