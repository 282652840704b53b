"""Interactive tracking of objects through a video: prompts, propagation, corrections.

Runner of a model and a session; the model holds no state of the video. The order of things, and
what counts as a conditioning frame when, are those of `sam2.sam2_video_predictor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsam2.engine.runtime.autocast import in_callers_precision
from fastsam2.engine.track_step import Prompt, answer_prompt, encode_memory, track_objects
from fastsam2.errors import InputError, StateError
from fastsam2.predictors.frame_outputs import (
    frame_outputs,
    image_features,
    result_of,
    shown,
    store_memory,
)
from fastsam2.predictors.model import VideoModel
from fastsam2.predictors.object_memory import SelectionRules
from fastsam2.predictors.prompts import join_points, mask_prompt, point_prompt
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import ObjectState, VideoSession
from fastsam2.types import FrameOutput, PointPrompt

__all__ = [
    "add_mask",
    "add_points",
    "clear_prompts",
    "commit_prompts",
    "pending_is_cond",
    "propagate",
    "remove_object",
    "track_frame",
]


def add_points(
    model: VideoModel,
    session: VideoSession,
    frame_idx: int,
    obj_id: Any,
    points: Any,
    labels: Any,
    box: Any,
    *,
    clear_old_points: bool,
    normalize_coords: bool,
) -> FrameResult:
    """Prompt an object with clicks or a box; see `SAM2VideoPredictor.add_new_points_or_box`."""
    frame_idx = session.check_frame(frame_idx)
    if box is not None and not clear_old_points:
        raise InputError("a box comes before all points: it needs clear_old_points=True")
    prompt = point_prompt(
        points,
        labels,
        box,
        video_size=(session.video_height, session.video_width) if normalize_coords else None,
        image_size=model.image_size,
        device=session.device,
    )
    obj = session.object_for(obj_id)
    if not clear_old_points:
        prompt = join_points(obj.point_inputs.get(frame_idx), prompt)
    return _answer_prompt(model, session, obj, frame_idx, points=prompt)


def add_mask(
    model: VideoModel, session: VideoSession, frame_idx: int, obj_id: Any, mask: Any
) -> FrameResult:
    """Prompt an object with a mask; see `SAM2VideoPredictor.add_new_mask`."""
    frame_idx = session.check_frame(frame_idx)
    prompt = mask_prompt(mask, image_size=model.image_size, device=session.device)
    obj = session.object_for(obj_id)
    return _answer_prompt(model, session, obj, frame_idx, mask=prompt)


@in_callers_precision
def _answer_prompt(
    model: VideoModel,
    session: VideoSession,
    obj: ObjectState,
    frame_idx: int,
    points: PointPrompt | None = None,
    mask: Tensor | None = None,
) -> FrameResult:
    """Run the prompted frame, keep prompt and pending answer, and show all objects there.

    Memory is encoded only when propagation begins, once the user is done with the frame. Nothing is
    kept before there is an answer: a frame that cannot be read leaves the session as it was.
    """
    tracked = obj.frames_tracked.get(frame_idx)
    # Without any conditioning frame left there is no memory to correct the frame by.
    is_init = tracked is None or not obj.memory.cond_frame_outputs
    is_cond = is_init or model.add_all_frames_to_correct_as_cond
    previous = None
    if points is not None:
        seen = obj.output(frame_idx, is_cond)
        if seen is not None:
            # Extreme logits as a prompt are numerically unkind.
            previous = seen.pred_masks.to(session.device).float().clamp(-32.0, 32.0)
    selection = None
    if tracked is not None and not is_init:
        rules = SelectionRules.of(model)
        selection = obj.memory.select(
            frame_idx, rules, num_frames=session.num_frames, reverse=tracked["reverse"]
        )
    found = answer_prompt(
        model,
        session.pool(model),
        image_features(model, session, frame_idx),
        selection,
        Prompt(points, mask, previous, is_init),
    )
    (answer,) = frame_outputs(model, session, found)
    session.add_object(obj)
    obj.keep_prompt(frame_idx, points, mask)
    pending = obj.pending.cond_frame_outputs if is_cond else obj.pending.non_cond_frame_outputs
    pending[frame_idx] = answer
    return shown(model, session, frame_idx, is_cond)


def commit_prompts(model: VideoModel, session: VideoSession) -> None:
    """Encode all pending answers into memory.

    Raises:
        StateError: there is no object, or one of them has no prompted frame.
    """
    if not session.objects:
        raise StateError("no object has a prompt: add points, a box or a mask first")
    for obj in session.objects:
        if not obj.memory.cond_frame_outputs and not obj.pending.cond_frame_outputs:
            raise StateError(f"object {obj.obj_id!r} has no prompt: add points, a box or a mask")
    _encode_pending(model, session)
    for obj in session.objects:
        for pending, kept in (
            (obj.pending.non_cond_frame_outputs, obj.memory.non_cond_frame_outputs),
            (obj.pending.cond_frame_outputs, obj.memory.cond_frame_outputs),
        ):
            for frame_idx, output in pending.items():
                kept[frame_idx] = output
                _forget_outdated(model, obj, frame_idx)
            pending.clear()
        for frame_idx in obj.memory.cond_frame_outputs:
            obj.memory.non_cond_frame_outputs.pop(frame_idx, None)


@in_callers_precision
def _encode_pending(model: VideoModel, session: VideoSession) -> None:
    """Make memory of pending answers, of all objects of a frame at once."""
    if model.num_maskmem == 0:
        return
    fresh: dict[int, list[FrameOutput]] = {}
    for obj in session.objects:
        for outputs in (obj.pending.non_cond_frame_outputs, obj.pending.cond_frame_outputs):
            for frame_idx, output in outputs.items():
                if output.maskmem_features is None:
                    fresh.setdefault(frame_idx, []).append(output)
    for frame_idx, answers in fresh.items():
        memory = encode_memory(
            model,
            image_features(model, session, frame_idx),
            torch.cat([answer.pred_masks.to(session.device).float() for answer in answers]),
            torch.cat([answer.object_score_logits for answer in answers]),
            is_mask_from_pts=True,
        )
        store_memory(model, session, answers, *memory)


def _forget_outdated(model: VideoModel, obj: ObjectState, frame_idx: int) -> None:
    if model.clear_non_cond_mem_around_input:
        reach = model.memory_temporal_stride_for_eval * model.num_maskmem
        obj.memory.forget_tracked_around(frame_idx, reach)


def propagate(
    model: VideoModel,
    session: VideoSession,
    start_frame_idx: int | None,
    max_frame_num_to_track: int | None,
    reverse: bool,
    progress: Callable[..., Iterable[int]],
) -> Iterator[FrameResult]:
    """Track all objects; see `SAM2VideoPredictor.propagate`.

    `commit_prompts` comes first. `progress` wraps the frames to visit, as `tqdm.tqdm` does.
    """
    assert session.num_frames is not None
    objects = list(session.objects)
    last = session.num_frames - 1
    if start_frame_idx is None:
        start = min(t for obj in objects for t in obj.memory.cond_frame_outputs)
    else:
        start = session.check_frame(start_frame_idx)
    reach = session.num_frames if max_frame_num_to_track is None else max_frame_num_to_track
    if reach < 0:
        raise InputError(f"max_frame_num_to_track must not be negative, but is {reach}")
    if reverse:
        # Nothing lies before frame 0, and frame 0 itself has been answered.
        frames = range(start, max(start - reach, 0) - 1, -1) if start > 0 else range(0)
    else:
        frames = range(start, min(start + reach, last) + 1)
    for frame_idx in progress(frames, desc="propagate in video"):
        # Not those that were removed meanwhile; those that were added have no memory yet.
        objects = [obj for obj in objects if obj in session.objects]
        if not objects:
            return
        then = frames[frames.index(frame_idx) + 1 :]
        yield track_frame(model, session, objects, frame_idx, reverse=reverse, then=then)


@in_callers_precision
def track_frame(
    model: VideoModel,
    session: VideoSession,
    objects: Sequence[ObjectState],
    frame_idx: int,
    *,
    reverse: bool,
    then: Sequence[int] = (),
) -> FrameResult:
    """Find these objects on a frame, all in one batch; prompted frames keep their answers.

    The frames `then` come next.
    """
    rules = SelectionRules.of(model)
    tracked = [obj for obj in objects if frame_idx not in obj.memory.cond_frame_outputs]
    if tracked:
        found = track_objects(
            model,
            session.pool(model),
            image_features(model, session, frame_idx, then),
            [
                obj.memory.select(frame_idx, rules, num_frames=session.num_frames, reverse=reverse)
                for obj in tracked
            ],
        )
        for obj, output in zip(tracked, frame_outputs(model, session, *found), strict=True):
            obj.memory.non_cond_frame_outputs[frame_idx] = output
    for obj in objects:
        if frame_idx in obj.memory.cond_frame_outputs:
            _forget_outdated(model, obj, frame_idx)
        obj.mark_tracked(frame_idx, reverse)
    session.evict(objects, rules)
    return result_of(
        model, session, frame_idx, objects, [obj.memory.output(frame_idx) for obj in objects]
    )


def clear_prompts(session: VideoSession, frame_idx: int, obj: ObjectState) -> None:
    """Take back an object's prompts on a frame; its answer stays as if it had been tracked."""
    obj.point_inputs.pop(frame_idx, None)
    obj.mask_inputs.pop(frame_idx, None)
    obj.pending.cond_frame_outputs.pop(frame_idx, None)
    obj.pending.non_cond_frame_outputs.pop(frame_idx, None)
    output = obj.memory.cond_frame_outputs.pop(frame_idx, None)
    if output is not None:
        obj.memory.non_cond_frame_outputs[frame_idx] = output
        obj.frames_tracked.pop(frame_idx, None)


def pending_is_cond(session: VideoSession, frame_idx: int) -> bool:
    """Whether any object has a pending conditioning answer on this frame."""
    return any(frame_idx in obj.pending.cond_frame_outputs for obj in session.objects)


def remove_object(
    model: VideoModel, session: VideoSession, obj_id: Any, strict: bool, need_output: bool
) -> list[FrameResult]:
    """Forget an object; what the others show where it had been prompted."""
    obj = session.get_object(obj_id) if strict else session.find(obj_id)
    if obj is None:
        return []
    if len(session.objects) == 1:
        session.drop_all_objects()
        return []
    frames = sorted(obj.prompted_frames())
    session.drop_object(obj_id)
    if not need_output:
        return []
    return [shown(model, session, t, pending_is_cond(session, t)) for t in frames]
