"""Compatibility with `sam2`: module globals that programs replace.

Replacing them works only if they are looked up at call time. Tests of the image predictor are in
`tests/compat/test_image_predictor.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.compat.clients import SIZE, TINY, Client, Package, agree, click, logits_of, overrides

Both = tuple[Package, Package]


def replaced(package: Package, path: str, value: Any) -> Any:
    """Patch a name as programs do; fails if the name does not exist."""
    return mock.patch(f"{package.name}.{path}", value)


def silent_progress(package: Package, video: Path) -> Any:
    """supervisely runs without progress bars: each of its calls is decorated like this."""
    calls: list[Any] = []

    def notqdm(iterable: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((list(iterable), args, kwargs))
        return iterable

    @replaced(package, "sam2_video_predictor.tqdm", notqdm)
    @replaced(package, "utils.misc.tqdm", lambda iterable, *args, **kwargs: iterable)
    def track() -> Any:
        state = package.predictor.init_state(str(video))
        click(package, state)
        return logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=1))

    return track(), calls


def progress_assigned(package: Package, video: Path) -> Any:
    """Others assign a replacement that takes exactly the two arguments it is called with."""
    module = package.module("sam2_video_predictor")
    state = package.predictor.init_state(str(video))
    click(package, state)
    seen = []

    def own_bar(x: Any, desc: str) -> Any:
        for item in x:
            seen.append((desc, item))
            yield item

    with mock.patch.object(module, "tqdm", module.tqdm):
        module.tqdm = own_bar
        frames = logits_of(package.predictor.propagate_in_video(state, max_frame_num_to_track=1))
    return frames, seen


class Frames:
    """Frames of a client: a length, and tensors by index."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)


def own_frames(package: Package, video: Path) -> Any:
    """fiftyone provides its own samples of frames; lazy loaders are used in the same way."""
    frames, given = Frames(3), {}

    def load(video_path: Any, image_size: int, **kwargs: Any) -> Any:
        given.update(kwargs, video_path=video_path, image_size=image_size)
        return frames, 90, 140

    with replaced(package, "sam2_video_predictor.load_video_frames", load):
        state = package.predictor.init_state("not a file", offload_video_to_cpu=True)
    assert state["images"] is frames
    click(package, state, frame=1)
    shown = logits_of(package.predictor.propagate_in_video(state, start_frame_idx=0))
    given["compute_device"] = str(given["compute_device"])
    sizes = state["num_frames"], state["video_height"], state["video_width"]
    return dict(sorted(given.items())), sizes, shown, sorted(set(frames.asked))


def own_frames_as_a_value(package: Package, video: Path) -> Any:
    frames = Frames(2)
    with mock.patch(
        f"{package.name}.sam2_video_predictor.load_video_frames", return_value=(frames, 90, 140)
    ):
        state = package.predictor.init_state("in_memory")
    return click(package, state)[2]


REPLACED_WHILE_BUILDING = """
import inspect, sys
import torch
from {package} import build_sam
from {package}.utils import misc

owner = inspect.getmodule(misc.load_video_frames)
assert owner is sys.modules["{package}.utils.misc"]
assert "{package}.sam2_video_predictor" not in sys.modules

def load_video_frames(video_path, image_size, **kwargs):
    sample, reader = video_path
    return torch.zeros(2, 3, image_size, image_size), 64, 96

original = owner.load_video_frames
owner.load_video_frames = load_video_frames
try:
    predictor = build_sam.build_sam2_video_predictor(
        "{config}", None, device="cpu", hydra_overrides_extra={overrides}
    )
finally:
    owner.load_video_frames = original
state = predictor.init_state(("sample", "reader"))
print(state["num_frames"], state["video_height"], state["video_width"])
"""


@pytest.mark.parametrize("package", ["sam2", "fastsam2"])
def test_loader_replaced_while_the_predictor_is_built(package: str) -> None:
    """FiftyOne replaces the loader in its own module, and only until the predictor is built."""
    program = REPLACED_WHILE_BUILDING.format(package=package, config=TINY, overrides=overrides())
    # In a new process, which has not imported the predictor.
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "64", "96"]


CLIENTS: list[Client] = [silent_progress, progress_assigned, own_frames, own_frames_as_a_value]


@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: Client, packages: Both, video: Path) -> None:
    result = agree(client, packages, video)
    assert not isinstance(result, Exception), result


@pytest.mark.parametrize(
    "name",
    ["load_video_frames", "tqdm", "AsyncVideoFrameLoader", "_load_img_as_tensor"],
)
def test_names_to_replace_in_utils(packages: Both, name: str) -> None:
    for package in packages:
        with replaced(package, f"utils.misc.{name}", None):
            assert getattr(package.module("utils.misc"), name) is None
