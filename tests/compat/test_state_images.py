"""Compatibility with `sam2`: `state["images"]` used as a tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import support
from tests.compat.clients import SIZE, Client, Package, agree, click, logits_of

Both = tuple[Package, Package]


def looked_at(package: Package, video: Path) -> Any:
    """Programs ask for size, type and place before they allocate their own tensors."""
    images = package.predictor.init_state(str(video))["images"]
    return [
        tuple(images.shape),
        images.size(0),
        tuple(images.size()),
        images.ndim,
        images.dim(),
        len(images),
        images.numel(),
        images.nbytes,
        images.dtype,
        images.device,
        images.is_cuda,
        images.requires_grad,
        images.is_floating_point(),
    ]


def indexed(package: Package, video: Path) -> Any:
    images = package.predictor.init_state(str(video))["images"]
    return [
        images[0],
        images[-1],
        images[np.int64(1)],
        images[torch.tensor(2)],
        images[:2],
        images[1:5:2],
        images[-2:],
        tuple(images[4:4].shape),
        images[[0, 3]],
        images[torch.tensor([2, 0])],
        images[np.array([2, 0])],
        images[torch.tensor([True, False, True, False, True])],
        images[2, 0],
        images[1:3, :, 4:8, ::2],
        images[1:3, [0, 2]],
        images[..., 0],
        images[None, :2],
        images[[0, 1], [2, 2]],
        images[:, 1].mean(),
    ]


def computed(package: Package, video: Path) -> Any:
    """Methods, functions and operators give tensors."""
    images = package.predictor.init_state(str(video))["images"]
    frame = torch.ones(1, 3, SIZE, SIZE)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    return [
        images.to("cpu"),
        images.to(torch.float64),
        images.cpu().numpy(),
        images.float(),
        images.half().dtype,
        images.permute(0, 2, 3, 1),
        images.clone().mul_(2),
        images.mT,
        list(images),
        torch.cat((images, frame)),
        torch.stack([images, images], dim=1),
        torch.mean(images, dim=(0, 2, 3)),
        torch.nn.functional.interpolate(images, size=(8, 8)),
        images * 0.5 + mean,
        1 - images,
        -images,
        mean * images,
        np.asarray(images),
        np.array(images),
    ]


def refused(use: Callable[[Any], Any]) -> Client:
    def client(package: Package, video: Path) -> Any:
        return use(package.predictor.init_state(str(video))["images"])

    return client


def grown(package: Package, video: Path) -> Any:
    """Programs append frames by `torch.cat` and track on."""
    state = package.predictor.init_state(str(video))
    click(package, state)
    first = logits_of(package.predictor.propagate_in_video(state))
    state["images"] = torch.cat((state["images"], state["images"][1:3].flip(3)))
    state["num_frames"] = len(state["images"])
    return first, logits_of(package.predictor.propagate_in_video(state, start_frame_idx=4))


@pytest.mark.parametrize("client", [looked_at, indexed, computed, grown])
def test_client(client: Client, packages: Both, video: Path) -> None:
    result = agree(client, packages, video)
    assert not isinstance(result, Exception), result


@pytest.mark.parametrize(
    "use",
    [lambda x: x[5], lambda x: x[-6], lambda x: x[[7]], lambda x: x[0, 3]],
)
def test_bad_indices(use: Callable[[Any], Any], packages: Both, video: Path) -> None:
    result = agree(refused(use), packages, video)
    assert isinstance(result, Exception)


def test_unknown_attributes(packages: Both, video: Path) -> None:
    for package in packages:
        images = package.predictor.init_state(str(video))["images"]
        with pytest.raises(AttributeError, match="no attribute 'widht'"):
            _ = images.widht


def test_decodes_what_is_asked_for(packages: Both, tmp_path: Path) -> None:
    """A long video is not decoded to ask its shape or a slice of it."""
    _, ours = packages
    folder = support.write_clip(tmp_path, frames=12)
    images = ours.predictor.init_state(str(folder))["images"]
    images.close()  # frames are not read ahead
    read: list[int] = []
    source, load = images.source, images.source._read
    source._read = lambda frame_idx: read.append(frame_idx) or load(frame_idx)
    assert tuple(images.shape) == (12, 3, SIZE, SIZE)
    assert images.dtype is torch.float32
    assert not hasattr(images, "mine")
    assert read == []
    assert images[9:11].shape == (2, 3, SIZE, SIZE)
    assert images[7, :, 0, 0].shape == (3,)
    assert read == [9, 10, 7]
