"""Benchmark peers: fastsam2 with a given plan, and `sam2`, eager and compiled.

All get the same weights and preprocessed frames, and return mask logits at the size of the video.
`bench.hf` adds transformers.
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
#: Frames in memory before the first timed frame: the number of object pointers read.
HISTORY = 16


@dataclass(frozen=True)
class Setting:
    """Model, sizes and precision of a measurement."""

    model: str = "sam2.1-tiny"
    image_size: int = 1024
    objects: int = 1
    dtype: str = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def overrides(self) -> list[str]:
        return [f"++model.image_size={self.image_size}"]

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast context of peers that use autocast."""
        half = self.dtype != "fp32"
        return torch.autocast(self.device.type, NAMES[self.dtype], enabled=half)


class Peer(Protocol):
    """Something that tracks objects through a video."""

    name: str

    def missing(self, setting: Setting) -> str:
        """Return the reason why the peer cannot run with `setting`; empty if it can."""

    def build(self, setting: Setting) -> Any:
        """Build the model with the weights of `weights`."""

    def open(self, model: Any, setting: Setting, clip: Clip) -> Any:
        """Open a session on preprocessed frames, with a box prompt for each object."""

    def go(self, model: Any, state: Any, setting: Setting, start: int) -> Iterator[Tensor]:
        """Track; yield mask logits `[N, 1, H, W]` of each frame from `start` on."""

    def outputs(self, state: Any) -> Iterator[dict[int, Any]]:
        """Yield the outputs of tracked frames, by frame, of each object."""


def track(peer: Peer, model: Any, setting: Setting, clip: Clip) -> Iterator[Tensor]:
    """Track from frame `HISTORY` on with a full memory, made of copies of one tracked frame."""
    state = peer.open(model, setting, clip)
    for _ in itertools.islice(peer.go(model, state, setting, 0), 2):
        pass
    for tracked in peer.outputs(state):
        for t in range(2, HISTORY):
            tracked[t] = tracked[1]
    return peer.go(model, state, setting, HISTORY)


@functools.lru_cache(maxsize=1)
def weights(name: str) -> dict[str, Tensor]:
    """Return the trained weights of nano, or random weights of another model."""
    if name == "nano":
        from fastsam2.checkpoints import load_state_dict, resolve_model

        return load_state_dict(resolve_model("nano")[1])
    return randomise_(build_sam2_video_predictor(name, device="cpu")).state_dict()


class _Official:
    """Peer with the interface of `sam2`."""

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
                # Around each frame only: the caller must not run inside the context.
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
        name: name in results.
        adds: the field of the plan that this peer demonstrates; if it needs CUDA, so does the peer.
        choices: fields of the plan except `dtype`; without any, the plan is `Plan.auto`. On a CPU,
            those for CUDA are ignored.
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
            return f"{self._adds} needs CUDA"
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
    """The reference, in half precision by autocast, as in its own benchmark."""

    package = "sam2"

    def __init__(self, compiled: bool = False) -> None:
        self.name = "sam2 vos_optimized" if compiled else "sam2"
        self._compiled = compiled

    def missing(self, setting: Setting) -> str:
        if self._compiled and setting.device.type != "cuda":
            return "vos_optimized needs CUDA"
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
    """Hydra overrides that turn tiny into nano."""
    yield from _overrides(CONFIGS["sam2.1-tiny"], CONFIGS["nano"])
    # In fastsam2 these follow from other fields.
    yield "++model.image_encoder.neck.position_encoding.num_pos_feats=128"
    yield "++model.memory_encoder.mask_downsampler.embed_dim=128"


def _nano_decoder() -> contextlib.AbstractContextManager[Any]:
    """Patch the MLP width of the mask decoder, which `sam2` does not configure."""
    from sam2.modeling import sam2_base

    width = CONFIGS["nano"].sam_mask_decoder_extra_args.mlp_dim
    original = sam2_base.TwoWayTransformer
    return mock.patch.object(
        sam2_base, "TwoWayTransformer", lambda **options: original(**options | {"mlp_dim": width})
    )


def _overrides(base: Any, wanted: Any, path: str = "++model") -> Iterator[str]:
    """Hydra overrides for the fields in which two configurations differ."""
    for name in (f.name for f in fields(base)):
        a, b, place = getattr(base, name), getattr(wanted, name), f"{path}.{name}"
        if is_dataclass(a):
            yield from _overrides(a, b, place)
        elif a != b and name not in ("image_size", "feat_sizes", "mlp_dim"):
            yield f"{place}={list(b) if isinstance(b, tuple) else b}"


@contextlib.contextmanager
def _kept_casts() -> Iterator[None]:
    """Keep autocast's cache of cast weights between frames, as in one long autocast block."""
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable progress bars, which would be drawn by the measured thread."""
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
    """Return the reason why a module cannot be imported; empty if it can."""
    try:
        importlib.import_module(module)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        return f"{module} cannot be imported: {str(error).splitlines()[0]}"
    return ""
