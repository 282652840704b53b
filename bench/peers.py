"""Who tracks: fastsam2 as a plan says, and `sam2` as it is and compiled; `bench.hf` has one more.

All have the same weights and prepared frames, and answer with mask logits of the video's size.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol
from unittest import mock

import torch
from torch import Tensor

from bench.clips import Clip, Prepared
from bench.rows import NAMES
from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.config import CONFIGS
from fastsam2.engine.plan import Plan
from tests.weights import randomise_

__all__ = [
    "HISTORY",
    "Ours",
    "Peer",
    "Sam2",
    "Setting",
    "import_error",
    "quiet",
    "track",
    "weights",
]

_CUDA_ONLY = ("graphs", "encoder_batch")
#: Frames that are remembered before the first timed one: as many as pointers are read of.
HISTORY = 16


@dataclass(frozen=True)
class Setting:
    """What is tracked with."""

    model: str = "sam2.1-tiny"
    image_size: int = 1024
    objects: int = 1
    dtype: str = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def overrides(self) -> list[str]:
        return [f"++model.image_size={self.image_size}"]

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """In which those compute who are told so by autocast."""
        half = self.dtype != "fp32"
        return torch.autocast(self.device.type, NAMES[self.dtype], enabled=half)


class Peer(Protocol):
    """Something that tracks objects through a video."""

    name: str

    def missing(self, setting: Setting) -> str:
        """Why it cannot run so; empty if it can."""

    def build(self, setting: Setting) -> Any:
        """The model, with the weights of `weights`."""

    def open(self, model: Any, setting: Setting, clip: Clip) -> Any:
        """A session on the clip, its frames prepared and its objects prompted with their boxes."""

    def go(self, model: Any, state: Any, setting: Setting, start: int) -> Iterator[Tensor]:
        """Mask logits `[N, 1, H, W]` of each frame from `start` on."""

    def outputs(self, state: Any) -> Iterator[dict[int, Any]]:
        """What is remembered of each object: its tracked frames."""


def track(peer: Peer, model: Any, setting: Setting, clip: Clip) -> Iterator[Tensor]:
    """Frames from the `HISTORY`th on with full memory, a tracked frame's many times over."""
    state = peer.open(model, setting, clip)
    for _ in itertools.islice(peer.go(model, state, setting, 0), 2):
        pass
    for tracked in peer.outputs(state):
        for t in range(2, HISTORY):
            tracked[t] = tracked[1]
    return peer.go(model, state, setting, HISTORY)


@functools.lru_cache(maxsize=1)
def weights(name: str) -> dict[str, Tensor]:
    """Those of nano, which has been trained; of another model, random ones."""
    if name == "nano":
        from fastsam2.checkpoints import load_state_dict, resolve_model

        return load_state_dict(resolve_model("nano")[1])
    return randomise_(build_sam2_video_predictor(name, device="cpu")).state_dict()


class _Official:
    """The interface that fastsam2 shares with `sam2`."""

    package: str

    def open(self, model: Any, setting: Setting, clip: Clip) -> Any:
        frames = Prepared(clip, setting.image_size, setting.device)
        with mock.patch(
            f"{self.package}.sam2_video_predictor.load_video_frames",
            return_value=(frames, *clip.size),
        ):
            state = model.init_state(clip)
        with self.precision(setting):
            for obj_id, box in enumerate(clip.boxes):
                model.add_new_points_or_box(state, 0, obj_id, box=box)
        return state

    def go(self, model: Any, state: Any, setting: Setting, start: int) -> Iterator[Tensor]:
        with quiet(), _kept_casts():
            frames = model.propagate_in_video(state, start_frame_idx=start)
            while True:
                # Around each frame: what is left open here would hold for who asks.
                with self.precision(setting):
                    found = next(frames, None)
                if found is None:
                    return
                yield found[2]

    def outputs(self, state: Any) -> Iterator[dict[int, Any]]:
        for outputs in state["output_dict_per_obj"].values():
            yield outputs["non_cond_frame_outputs"]

    def precision(self, setting: Setting) -> contextlib.AbstractContextManager[Any]:
        return setting.precision()


class Ours(_Official):
    """fastsam2.

    Args:
        choices: fields of its plan, without which it is `Plan.auto`; never its dtype.
        adds: the one that it is made to show. Of the others, a CPU leaves out what is for CUDA.
    """

    package = "fastsam2"

    def __init__(self, name: str = "fastsam2", adds: str = "", **choices: Any) -> None:
        self.name, self._adds, self._choices = name, adds, choices

    def plan(self, setting: Setting) -> Plan:
        dtype, choices = NAMES[setting.dtype], self._choices
        if not choices:
            return replace(Plan.auto(setting.device), dtype=dtype)
        if setting.device.type != "cuda":
            choices = {key: value for key, value in choices.items() if key not in _CUDA_ONLY}
        return Plan(dtype=dtype, **choices)

    def missing(self, setting: Setting) -> str:
        cuda = setting.device.type == "cuda"
        if self._adds in _CUDA_ONLY and not cuda:
            return f"{self._adds}: for CUDA only"
        if self.plan(setting).compile and not cuda and shutil.which("g++") is None:
            return "torch.compile needs g++"
        return ""

    def build(self, setting: Setting) -> Any:
        model = build_sam2_video_predictor(
            setting.model,
            device=setting.device,
            plan=self.plan(setting),
            hydra_overrides_extra=setting.overrides,
        )
        model.load_state_dict(weights(setting.model))
        return model

    def precision(self, setting: Setting) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class Sam2(_Official):
    """The reference, by autocast in half precision as its own benchmark has it."""

    package = "sam2"

    def __init__(self, compiled: bool = False) -> None:
        self.name = "sam2 vos_optimized" if compiled else "sam2"
        self._compiled = compiled

    def missing(self, setting: Setting) -> str:
        if self._compiled and setting.device.type != "cuda":
            return "for CUDA only"
        return import_error("tests.reference")

    def build(self, setting: Setting) -> Any:
        from tests import reference

        options: dict[str, Any] = {"vos_optimized": self._compiled}
        if setting.model == "nano":
            with _nano_decoder():
                model = reference.video_predictor(
                    "sam2.1-tiny", setting.image_size, overrides=tuple(_nano_overrides()), **options
                )
        else:
            model = reference.video_predictor(setting.model, setting.image_size, **options)
        model.load_state_dict(weights(setting.model))
        return model.to(setting.device).eval()


def _nano_overrides() -> Iterator[str]:
    """What makes nano of tiny, in Hydra's words."""
    yield from _overrides(CONFIGS["sam2.1-tiny"], CONFIGS["nano"])
    # These follow from other fields in fastsam2.
    yield "++model.image_encoder.neck.position_encoding.num_pos_feats=128"
    yield "++model.memory_encoder.mask_downsampler.embed_dim=128"


def _nano_decoder() -> contextlib.AbstractContextManager[Any]:
    """`sam2` has no word for the width of the decoder's MLPs."""
    from sam2.modeling import sam2_base

    width = CONFIGS["nano"].sam_mask_decoder_extra_args.mlp_dim
    original = sam2_base.TwoWayTransformer
    return mock.patch.object(
        sam2_base, "TwoWayTransformer", lambda **options: original(**options | {"mlp_dim": width})
    )


def _overrides(base: Any, wanted: Any, path: str = "++model") -> Iterator[str]:
    """Hydra's words for the fields in which two configurations differ."""
    for name in (f.name for f in fields(base)):
        a, b, place = getattr(base, name), getattr(wanted, name), f"{path}.{name}"
        if is_dataclass(a):
            yield from _overrides(a, b, place)
        elif a != b and name not in ("image_size", "feat_sizes", "mlp_dim"):
            yield f"{place}={list(b) if isinstance(b, tuple) else b}"


@contextlib.contextmanager
def _kept_casts() -> Iterator[None]:
    """What autocast has made of the weights is kept between frames, as in one long block."""
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars of progress, which are drawn by the same thread."""
    with contextlib.ExitStack() as stack:
        for name in (
            "fastsam2.sam2_video_predictor",
            "sam2.sam2_video_predictor",
            "sam2.utils.misc",
        ):
            module = sys.modules.get(name)
            if module is not None:
                bar = functools.partial(module.tqdm, disable=True)
                stack.enter_context(mock.patch.object(module, "tqdm", bar))
        yield


@functools.cache
def import_error(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises is the reason
        return f"{module} cannot be imported: {str(error).splitlines()[0]}"
    return ""
