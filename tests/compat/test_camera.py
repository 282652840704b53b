"""The camera predictor, as programs written for the real-time fork of `sam2` use it.

It is compared with the video predictor of `sam2`, which has the same results as the fork.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastsam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from fastsam2.build_sam import build_sam2_camera_predictor
from fastsam2.errors import InputError, StateError
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2.sam2_camera_predictor import SAM2CameraPredictor
from tests import reference
from tests.compat.clients import CLICK, TINY, Package, assert_same, overrides
from tests.support import frames_rgb

Both = tuple[Package, Package]

#: Long enough that pointers are counted as in a stream.
LENGTH = 18
BOX = [30, 20, 110, 100]


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return frames_rgb(LENGTH)


@pytest.fixture
def camera(weights: Path) -> SAM2CameraPredictor:
    camera = build_sam2_camera_predictor(
        TINY,
        str(weights),
        device="cpu",
        hydra_overrides_extra=overrides("++model.fill_hole_area=0"),
        memory_dtype=torch.float32,
    )
    assert type(camera) is SAM2CameraPredictor
    return camera


@pytest.fixture(scope="module")
def expected(clip: np.ndarray, packages: Both) -> Any:
    """Compute the logits of `sam2` for two objects: prompted on frame 0, then tracked."""
    from fastsam2.utils.misc import load_video_frames

    ref = packages[0].predictor
    images, height, width = load_video_frames(clip, ref.image_size, offload_video_to_cpu=True)
    with pytest.MonkeyPatch.context() as patch, reference.float32_memory():
        frames = torch.stack([images[t] for t in range(LENGTH)])
        module = packages[0].module("sam2_video_predictor")
        patch.setattr(module, "load_video_frames", lambda **_: (frames, height, width))
        state = ref.init_state("")
        ref.add_new_points_or_box(state, 0, 1, [list(CLICK)], [1])
        prompted = ref.add_new_points_or_box(state, 0, 2, box=BOX)
        tracked = [masks.clone() for _, _, masks in ref.propagate_in_video(state)]
    return prompted, tracked


def prompt(camera: Any) -> Any:
    """Prompt two objects as the fork's notebook and X-AnyLabeling do."""
    camera.add_new_prompt(
        frame_idx=0,
        obj_id=1,
        points=np.array([CLICK], dtype=np.float32),
        labels=np.array([1], np.int32),
    )
    corners = np.array(BOX, dtype=np.float32).reshape(2, 2)
    return camera.add_new_prompt(frame_idx=0, obj_id=2, bbox=corners)


def track(camera: Any, clip: np.ndarray) -> list[Tensor]:
    found = []
    for frame in clip[1:]:
        ids, logits = camera.track(frame)
        assert ids == [1, 2]
        found.append(logits)
    return found


@pytest.mark.slow
def test_numbers(camera: Any, clip: np.ndarray, expected: Any) -> None:
    camera.load_first_frame(clip[0])
    assert_same(prompt(camera), expected[0])
    assert_same(track(camera, clip), expected[1][1:])
    assert camera.frame_idx == LENGTH - 1


def test_load_first_frame_resets(camera: Any, clip: np.ndarray, expected: Any) -> None:
    """X-AnyLabeling loads a first frame for each video, of any size; cvat's copies do as well."""
    camera.load_first_frame(frames_rgb(1, 64, 64)[0])
    camera.add_new_points(0, "old", [[30, 30]], [1])
    camera.load_first_frame(Image.fromarray(clip[0]))
    assert camera.frame_idx == 0
    assert_same(prompt(camera), expected[0])
    assert_same(camera.track(Image.fromarray(clip[1])), ([1, 2], expected[1][1]))


def test_values_that_programs_assign(camera: Any, clip: np.ndarray, expected: Any) -> None:
    """The fork resets neither its count nor its stream by itself, so programs assign to them."""
    camera.load_first_frame(clip[0])
    camera.track(clip[1])
    camera.frame_idx = 0
    camera.load_first_frame(clip[0])
    camera.frame_idx = 0
    assert_same(prompt(camera), expected[0])
    camera.condition_state = {}
    assert not camera.condition_state
    with pytest.raises(StateError, match="cannot be set to 3"):
        camera.frame_idx = 3
    with pytest.raises(StateError, match="can only be set to an empty value"):
        camera.condition_state = {"images": []}


def test_reset(camera: Any, clip: np.ndarray, expected: Any) -> None:
    """Objects are removed, the frame stays."""
    camera.reset_state()
    camera.load_first_frame(clip[0])
    camera.add_new_mask(0, (1,), np.ones((120, 160), dtype=bool))
    camera.reset_state()
    assert_same(prompt(camera), expected[0])


def test_a_prompt_in_parts(camera: Any, clip: np.ndarray) -> None:
    """Fractions instead of pixels, clicks one by one, a box without old points to keep."""
    camera.load_first_frame(clip[0])
    first = camera.add_new_prompt(0, 1, points=[[50, 60]], labels=[1])
    again = camera.add_new_prompt(
        0, 2, points=[[50 / 160, 60 / 120]], labels=[1], normalize_coords=False
    )
    assert_same(again[2][1], first[2][0])
    both = camera.add_new_prompt(0, 1, points=[[90, 70]], labels=[0], clear_old_points=False)
    points = camera.condition_state["point_inputs_per_obj"][0][0]["point_labels"]
    assert points.tolist() == [[1, 0]]
    assert not torch.equal(both[2][0], first[2][0])
    _, ids, _ = camera.add_new_prompt(0, 3, bbox=[BOX], clear_old_points=False)
    assert ids == [1, 2, 3]
    with pytest.raises(InputError, match="clear_old_points=True"):
        camera.add_new_prompt(0, 3, bbox=[BOX], clear_old_points=False)


def test_state_that_roboflow_reads(camera: Any, clip: np.ndarray) -> None:
    assert not camera.condition_state
    camera.load_first_frame(clip[0])
    assert camera.condition_state
    assert camera.condition_state["obj_ids"] == []
    prompt(camera)
    assert max(camera.condition_state["obj_ids"]) == 2


def test_objects_added_during_tracking(camera: Any, clip: np.ndarray) -> None:
    """The fork cannot add them without a restart."""
    camera.load_first_frame(clip[0])
    assert camera.track(clip[1])[0] == []
    frame, ids, logits = camera.add_new_prompt(1, 5, bbox=BOX)
    assert (frame, ids, logits.shape) == (1, [5], (1, 1, 120, 160))
    assert camera.track(clip[2])[0] == [5]


def test_is_a_model(camera: Any, weights: Path, packages: Both) -> None:
    """Programs pass it to other predictors, move it, and load weights into it."""
    assert isinstance(camera, SAM2Base)
    assert sorted(camera.state_dict()) == sorted(packages[0].predictor.state_dict())
    assert SAM2AutomaticMaskGenerator(model=camera).predictor.model is camera
    camera.to("cpu").eval()


def test_refusals(camera: Any, clip: np.ndarray) -> None:
    for call in (lambda: camera.track(clip[0]), lambda: prompt(camera)):
        with pytest.raises(StateError, match="load_first_frame"):
            call()
    camera.load_first_frame(clip[0])
    camera.track(clip[1])
    with pytest.raises(StateError, match="the current frame is 1, not 0"):
        prompt(camera)
    with pytest.raises(StateError, match="the current frame is 1, not 7"):
        camera.add_new_mask(7, 1, np.ones((120, 160), dtype=bool))
