"""Compatibility with `sam2`: states and predictors in files and in other processes."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import support
from tests.compat.clients import Package, agree, assert_same, click, logits_of
from tests.data.videos import write_video

Both = tuple[Package, Package]
Copy = Callable[[Any], Any]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved(value: Any, **kwargs: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **kwargs)


def saved_with_code(value: Any) -> Any:
    return saved(value, weights_only=False)


def halfway(package: Package, video: Any) -> Any:
    state = package.predictor.init_state(video)
    click(package, state, obj=1)
    click(package, state, frame=1, obj=2)
    logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=2))
    click(package, state, frame=2, obj=3)
    return state


def onward(package: Package, state: Any) -> Any:
    package.predictor.add_new_points_or_box(state, 1, 1, [[100, 50]], [0])
    return logits_of(package.predictor.propagate_in_video(state, start_frame_idx=1))


@pytest.mark.slow
@pytest.mark.parametrize("copied", [pickled, saved, saved_with_code])
def test_state(copied: Copy, packages: Both, video: Path, tmp_path: Path) -> None:
    """A state that is read again goes on, also after the video has been deleted."""

    def client(package: Package) -> Any:
        folder = tmp_path / package.name
        shutil.copytree(video, folder)
        state = halfway(package, str(folder))
        state["mine"] = "kept"
        loaded = copied(state)
        expected = onward(package, state)
        shutil.rmtree(folder)
        assert sorted(loaded["cached_features"]) == [2]
        found = onward(package, loaded)
        assert_same(found, expected)
        return found, loaded["mine"], sorted(loaded), list(loaded["obj_ids"])

    result = agree(client, packages)
    assert not isinstance(result, Exception), result


FRAMES = support.frames_rgb(5)


def frames_in_turn() -> Iterator[np.ndarray]:
    yield from FRAMES


@pytest.mark.slow
@pytest.mark.parametrize("copied", [pickled, saved])
@pytest.mark.parametrize(
    "kind", ["file", "bytes", "array", "tensor", "arrays", "pictures", "iterator"]
)
def test_state_of_other_inputs(kind: str, copied: Copy, packages: Both, tmp_path: Path) -> None:
    _, ours = packages
    file = write_video(tmp_path / "video.mp4", FRAMES)
    videos = {
        "file": file,
        "bytes": file.read_bytes(),
        "array": FRAMES,
        "tensor": torch.from_numpy(FRAMES),
        "arrays": list(FRAMES),
        "pictures": [Image.fromarray(frame) for frame in FRAMES],
        "iterator": frames_in_turn(),
    }
    state = halfway(ours, videos[kind])
    loaded = copied(state)
    expected = onward(ours, state)
    file.unlink()
    again = copied(loaded)
    assert_same(onward(ours, loaded), expected)
    assert_same(onward(ours, again), expected)
    assert again["images"].source.name == state["images"].source.name


@pytest.mark.parametrize("copied", [pickled, saved_with_code])
def test_predictor(copied: Copy, packages: Both, video: Path) -> None:
    def client(package: Package) -> Any:
        state = halfway(package, str(video))
        other = Package(package.name, copied(package.predictor))
        return onward(other, state)

    result = agree(client, packages)
    assert not isinstance(result, Exception), result


def in_another_process(package: Package, state: Any) -> Any:
    masks = [found[2].numpy() for found in onward(package, state)]
    return masks, state["obj_ids"]


@pytest.mark.slow
def test_spawned_process(packages: Both, video: Path) -> None:
    """A worker continues a session of its parent."""
    _, ours = packages
    state = halfway(ours, str(video))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        masks, ids = pool.apply(in_another_process, (ours, state))
    expected = in_another_process(ours, state)
    assert ids == expected[1]
    for mask, other in zip(masks, expected[0], strict=True):
        np.testing.assert_allclose(mask, other, atol=1e-4)


def test_outputs_of_many_objects_are_stored_once(packages: Both, video: Path) -> None:
    """Objects are decoded in one batch, of which each output is a view."""
    _, ours = packages
    state = ours.predictor.init_state(str(video))
    for obj in range(6):
        click(ours, state, obj=obj)
    logits_of(ours.predictor.propagate_in_video(state, max_frame_num_to_track=1))
    output = state["output_dict_per_obj"][0]["non_cond_frame_outputs"][1]
    tensors = [*output["maskmem_pos_enc"], *(x for x in output.values() if torch.is_tensor(x))]
    assert len(tensors) == 5
    assert len(pickle.dumps(output)) < sum(x.nbytes for x in tensors) + 10_000
