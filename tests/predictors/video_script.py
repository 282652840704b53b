"""Sessions with a video predictor as lists of calls, run on both `sam2` and fastsam2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Call = Callable[[Any, Any], list[Tensor]]


def points(frame: int, obj: int, xy: list[list[float]], labels: list[int], **kwargs: Any) -> Call:
    def run(predictor: Any, state: Any) -> list[Tensor]:
        out = predictor.add_new_points_or_box(
            state, frame_idx=frame, obj_id=obj, points=xy, labels=labels, **kwargs
        )
        return [out[2]]

    return run


def box(frame: int, obj: int, corners: list[float], **kwargs: Any) -> Call:
    def run(predictor: Any, state: Any) -> list[Tensor]:
        out = predictor.add_new_points_or_box(
            state, frame_idx=frame, obj_id=obj, box=np.array(corners), **kwargs
        )
        return [out[2]]

    return run


def mask(frame: int, obj: int, rows: slice, columns: slice) -> Call:
    def run(predictor: Any, state: Any) -> list[Tensor]:
        array = np.zeros((state["video_height"], state["video_width"]), dtype=bool)
        array[rows, columns] = True
        return [predictor.add_new_mask(state, frame, obj, array)[2]]

    return run


def propagate(**kwargs: Any) -> Call:
    def run(predictor: Any, state: Any) -> list[Tensor]:
        out = []
        for frame, ids, logits in predictor.propagate_in_video(state, **kwargs):
            assert ids == state["obj_ids"]
            out += [torch.tensor([float(frame)]), logits.clone()]
        return out

    return run


def remove(obj: int) -> Call:
    def run(predictor: Any, state: Any) -> list[Tensor]:
        ids, updated = predictor.remove_object(state, obj)
        updated = sorted(updated, key=lambda item: item[0])
        return [torch.tensor([float(i) for i in ids])] + [m for _, m in updated]

    return run


def clear(frame: int, obj: int) -> Call:
    return lambda predictor, state: [predictor.clear_all_prompts_in_frame(state, frame, obj)[2]]


def reset() -> Call:
    def run(predictor: Any, state: Any) -> list[Tensor]:
        predictor.reset_state(state)
        return [torch.tensor([float(len(state["obj_ids"]))])]

    return run


def play(predictor: Any, video: Path, script: list[Call]) -> list[Tensor]:
    """Run the calls of a script; returns all tensors in order."""
    state = predictor.init_state(str(video))
    return [tensor for call in script for tensor in call(predictor, state)]
