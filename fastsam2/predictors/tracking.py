"""Interactive tracking of objects through a video: prompts, propagation, corrections.

Functions of a model and a session; the model holds no state of the video. The order of operations
and the choice of conditioning frames are those of `sam2.sam2_video_predictor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.engine.track_step import (
    Prompt,
    TrackStep,
    encode_memory,
    segment_prompt,
    track_objects,
)
from fastsam2.errors import InputError, StateError, whole_number
from fastsam2.predictors.frame_outputs import (
    current_result,
    frame_outputs,
    frame_result,
    joined,
    memory_positions,
)
from fastsam2.predictors.model import FastPaths, VideoModel
from fastsam2.predictors.object_state import ObjectState
from fastsam2.predictors.official_step import encode_officially, track_officially
from fastsam2.predictors.prompts import join_points, mask_prompt, point_prompt
from fastsam2.predictors.results import FrameResult
from fastsam2.predictors.session import VideoSession
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
        raise InputError("a box must come before all points: it needs clear_old_points=True")
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
    return _add_prompt(model, session, obj, frame_idx, points=prompt)


def add_mask(
    model: VideoModel, session: VideoSession, frame_idx: int, obj_id: Any, mask: Any
) -> FrameResult:
    """Prompt an object with a mask; see `SAM2VideoPredictor.add_new_mask`."""
    frame_idx = session.check_frame(frame_idx)
    prompt = mask_prompt(mask, image_size=model.image_size, device=session.device)
    obj = session.object_for(obj_id)
    return _add_prompt(model, session, obj, frame_idx, mask=prompt)


def _add_prompt(
    model: VideoModel,
    session: VideoSession,
    obj: ObjectState,
    frame_idx: int,
    points: PointPrompt | None = None,
    mask: Tensor | None = None,
) -> FrameResult:
    """Segment the prompted frame, store prompt and pending output, and return the frame's result.

    Memory is encoded when propagation begins, after the last prompt on the frame. The session is
    unchanged if the frame cannot be read.
    """
    tracked = obj.frames_tracked.get(frame_idx)
    # Without a conditioning frame there is no memory to read.
    is_init = tracked is None or not obj.memory.cond_frame_outputs
    is_cond = is_init or model.add_all_frames_to_correct_as_cond
    previous = obj.output(frame_idx, is_cond) if points is not None else None
    prompt = Prompt(points, mask, _clamped_logits(session, previous), is_init)
    reverse = tracked is not None and tracked["reverse"]
    output = _segment_prompt(model, session, obj, frame_idx, prompt, reverse)
    session.add_object(obj)
    obj.keep_prompt(frame_idx, points, mask)
    pending = obj.pending.cond_frame_outputs if is_cond else obj.pending.non_cond_frame_outputs
    pending[frame_idx] = output
    return current_result(model, session, frame_idx, is_cond)


def _clamped_logits(session: VideoSession, output: FrameOutput | None) -> Tensor | None:
    """Return the mask logits of an earlier output as a prompt, clamped for numerical stability."""
    if output is None or output.pred_masks is None:
        return None
    return output.pred_masks.to(session.device).float().clamp(-32.0, 32.0)


def _segment_prompt(
    model: VideoModel,
    session: VideoSession,
    obj: ObjectState,
    frame_idx: int,
    prompt: Prompt,
    reverse: bool,
) -> FrameOutput:
    fast = model.fast_paths()
    if fast.step is None:
        return track_officially(model, session, obj, frame_idx, prompt, reverse)
    selection = None
    if not prompt.is_init_cond_frame:
        selection = obj.memory.select(
            frame_idx, model.selection_rules, num_frames=session.num_frames, reverse=reverse
        )
    features = _features(model, fast, session, frame_idx)
    pool = _pool(model, fast.step, session)
    found = segment_prompt(fast.step, pool, features, selection, prompt)
    # Outputs of tracked frames are offloaded when they are evicted, without waiting for the device.
    found = found._replace(low_res_masks=found.low_res_masks.to(session.storage_device))
    (output,) = frame_outputs(found, found.ious.amax(1))
    return output


def commit_prompts(model: VideoModel, session: VideoSession) -> None:
    """Encode all pending outputs into memory.

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


def _encode_pending(model: VideoModel, session: VideoSession) -> None:
    """Encode memory of pending outputs, of all objects of a frame in one batch."""
    if model.num_maskmem == 0:
        return
    fresh: dict[int, list[FrameOutput]] = {}
    for obj in session.objects:
        for pending in (obj.pending.non_cond_frame_outputs, obj.pending.cond_frame_outputs):
            for frame_idx, output in pending.items():
                if not output.has_memory:
                    fresh.setdefault(frame_idx, []).append(output)
    fast = model.fast_paths()
    for frame_idx, outputs in fresh.items():
        if fast.step is None:
            for output in outputs:
                encode_officially(model, session, frame_idx, output)
        else:
            _encode_batch(model, fast, fast.step, session, frame_idx, outputs)


def _encode_batch(
    model: VideoModel,
    fast: FastPaths,
    step: TrackStep,
    session: VideoSession,
    frame_idx: int,
    outputs: Sequence[FrameOutput],
) -> None:
    features = _features(model, fast, session, frame_idx)
    masks = [x.pred_masks.to(session.device).float() for x in outputs if x.pred_masks is not None]
    presence = torch.cat([output.object_score_logits for output in outputs])
    slots = encode_memory(step, _pool(model, step, session), features, torch.cat(masks), presence)
    positions = memory_positions(session, lambda: step.memory_positions(features))
    for output, slot in zip(outputs, slots, strict=True):
        output.store(slot, positions)


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
    """Track all objects, after `commit_prompts`; see `SAM2VideoPredictor.propagate`.

    Args:
        progress: wraps the frames to visit, as `tqdm.tqdm` does.
    """
    assert session.num_frames is not None
    fast = model.fast_paths()
    objects = session.objects
    last = session.num_frames - 1
    if start_frame_idx is None:
        start = min(t for obj in objects for t in obj.memory.cond_frame_outputs)
    else:
        start = session.check_frame(start_frame_idx)
    reach = session.num_frames
    if max_frame_num_to_track is not None:
        reach = whole_number("max_frame_num_to_track", max_frame_num_to_track, least=0)
    if reverse:
        # There is nothing before frame 0, and its output exists.
        frames = range(start, max(start - reach, 0) - 1, -1) if start > 0 else range(0)
    else:
        frames = range(start, min(start + reach, last) + 1)
    for frame_idx in progress(frames, desc="propagate in video"):
        # Skip objects removed since the last frame; one added anew has no memory yet.
        known = {obj.obj_id: obj for obj in session.objects}
        objects = [known[obj.obj_id] for obj in objects if obj.obj_id in known]
        objects = [obj for obj in objects if obj.memory.cond_frame_outputs]
        if not objects:
            return
        fast = fast.current(model)
        then = frames[frames.index(frame_idx) + 1 :]
        yield track_frame(model, fast, session, objects, frame_idx, reverse=reverse, then=then)


def track_frame(
    model: VideoModel,
    fast: FastPaths,
    session: VideoSession,
    objects: Sequence[ObjectState],
    frame_idx: int,
    *,
    reverse: bool,
    then: Sequence[int] = (),
) -> FrameResult:
    """Track objects on a frame; objects prompted on it keep their outputs.

    Args:
        fast: fast paths of the model.
        then: the frames that will be tracked next.
    """
    rules = model.selection_rules
    tracked = [obj for obj in objects if frame_idx not in obj.memory.cond_frame_outputs]
    outputs: list[FrameOutput] = []
    batch: tuple[Tensor, Tensor, Tensor] | None = None  # of all tracked objects
    step = fast.step
    if tracked and step is None:
        prompt = Prompt()
        outputs = [
            track_officially(model, session, obj, frame_idx, prompt, reverse, run_mem_encoder=True)
            for obj in tracked
        ]
    elif tracked and step is not None:
        features = _features(model, fast, session, frame_idx, then)
        selections = [
            obj.memory.select(frame_idx, rules, num_frames=session.num_frames, reverse=reverse)
            for obj in tracked
        ]
        pool = _pool(model, step, session)
        found = track_objects(step, pool, features, selections)
        ious = found.masks.ious.amax(1)
        outputs = frame_outputs(found.masks, ious)
        positions = memory_positions(session, lambda: step.memory_positions(features))
        for output, slot, pointer_slot in zip(
            outputs, found.slots, found.pointer_slots, strict=True
        ):
            output.store(slot, positions)
            pool.pointers.hold(output.obj_ptr, pointer_slot)
        batch = found.masks.low_res_masks, found.masks.object_score_logits, ious
    for obj, output in zip(tracked, outputs, strict=True):
        obj.memory.non_cond_frame_outputs[frame_idx] = output
    for obj in objects:
        if frame_idx in obj.memory.cond_frame_outputs:
            _forget_outdated(model, obj, frame_idx)
        obj.mark_tracked(frame_idx, reverse)
    if batch is not None and len(tracked) == len(objects):
        result = frame_result(model, session, frame_idx, objects, *batch)
    else:
        known = [obj.memory.output(frame_idx) for obj in objects]
        result = frame_result(model, session, frame_idx, objects, *joined(model, session, known))
    session.evict(objects, rules)
    return result


def _features(
    model: VideoModel,
    fast: FastPaths,
    session: VideoSession,
    frame_idx: int,
    then: Sequence[int] = (),
) -> FrameFeatures:
    encoded = session.encoded_frame(fast.encode, frame_idx, then)
    return FrameFeatures.of(model, encoded[1])


def _pool(model: VideoModel, step: TrackStep, session: VideoSession) -> MemoryPool:
    return session.pool(step.model, model.memory_dtype, model.pools)


def clear_prompts(session: VideoSession, frame_idx: int, obj: ObjectState) -> None:
    """Remove an object's prompts on a frame; its output becomes that of a tracked frame."""
    obj.drop_prompt(frame_idx)
    obj.pending.cond_frame_outputs.pop(frame_idx, None)
    obj.pending.non_cond_frame_outputs.pop(frame_idx, None)
    output = obj.memory.cond_frame_outputs.pop(frame_idx, None)
    if output is not None:
        obj.memory.non_cond_frame_outputs[frame_idx] = output
        obj.frames_tracked.pop(frame_idx, None)


def pending_is_cond(session: VideoSession, frame_idx: int) -> bool:
    """True if `frame_idx` is a pending conditioning frame of any object."""
    return any(frame_idx in obj.pending.cond_frame_outputs for obj in session.objects)


def remove_object(
    model: VideoModel, session: VideoSession, obj_id: Any, strict: bool, need_output: bool
) -> list[FrameResult]:
    """Remove an object.

    Returns:
        With `need_output`, the results of the other objects on each frame where it was prompted.

    Raises:
        StateError: there is no such object, with `strict`.
    """
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
    return [current_result(model, session, t, pending_is_cond(session, t)) for t in frames]
