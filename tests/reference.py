"""The reference: `sam2` 1.1.0, built with random weights.

`sam2` is imported here before `fastsam2` so that neither can replace the other.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    import torchvision  # type: ignore[import-untyped]  # noqa: F401
except RuntimeError:
    # The CPU build of torch has no matching torchvision binary; its import asks for these two.
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]
    _TORCHVISION_OPS = torch.library.Library("torchvision", "DEF")
    for _op in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            _TORCHVISION_OPS.define(
                f"{_op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )

import sam2.build_sam
import sam2.sam2_video_predictor
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from tests.weights import randomise_

# Whichever package is imported first has its configurations found, by `sam2` too.
GlobalHydra.instance().clear()
initialize_config_module("sam2", version_base="1.2")

CONFIGS = {
    f"sam{version}-{size}": f"configs/sam{version}/sam{version}_hiera_{letter}.yaml"
    for version in ("2", "2.1")
    for size, letter in (("tiny", "t"), ("small", "s"), ("base_plus", "b+"), ("large", "l"))
}


def _overrides(image_size: int, extra: list[str]) -> list[str]:
    feat = image_size // 16
    attention = "++model.memory_attention.layer"
    return [
        f"++model.image_size={image_size}",
        f"{attention}.self_attention.feat_sizes=[{feat},{feat}]",
        f"{attention}.cross_attention.feat_sizes=[{feat},{feat}]",
        *extra,
    ]


def video_predictor(
    name: str, image_size: int = 256, seed: int = 0, overrides: tuple[str, ...] = (), **kwargs: Any
) -> nn.Module:
    """Build the official video predictor of config `name` on the CPU, with random weights."""
    model = sam2.build_sam.build_sam2_video_predictor(
        CONFIGS[name],
        device="cpu",
        hydra_overrides_extra=_overrides(image_size, list(overrides)),
        **kwargs,
    )
    assert type(model.memory_attention).__module__.startswith("sam2.")
    model.fill_hole_area = 0
    return randomise_(model, seed)


def image_model(
    name: str, image_size: int = 1024, seed: int = 0, overrides: tuple[str, ...] = (), **kwargs: Any
) -> nn.Module:
    """Build the official `SAM2Base` of config `name` on the CPU, with random weights."""
    model = sam2.build_sam.build_sam2(
        CONFIGS[name],
        device="cpu",
        hydra_overrides_extra=_overrides(image_size, list(overrides)),
        **kwargs,
    )
    assert type(model.memory_attention).__module__.startswith("sam2.")
    return randomise_(model, seed)


def save_checkpoint(model: nn.Module, path: Path) -> Path:
    """Write the official checkpoint format."""
    torch.save({"model": model.state_dict()}, path)
    return path


@contextlib.contextmanager
def float32_memory() -> Iterator[None]:
    """Make the official video predictor store its memory in float32 instead of bfloat16."""
    module = sam2.sam2_video_predictor
    proxy = types.SimpleNamespace(**vars(torch))
    proxy.bfloat16 = torch.float32
    original, module.torch = module.torch, proxy
    try:
        yield
    finally:
        module.torch = original
