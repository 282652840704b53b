"""Image features of a video: encoded when they are asked for or ahead of it, and kept for a while.

One stage serves all sessions on a video, from any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastsam2.engine.fused.image_encoder import encode_image, features_key
from fastsam2.engine.runtime.pytree import tensors
from fastsam2.engine.runtime.streams import Event, record_event, side_stream
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["DEFAULT_FEATURE_BYTES", "Encoded", "FeatureCache", "Frames", "encode_together"]

#: By default a stage keeps the features of 9 frames of 1024 pixels in float32.
DEFAULT_FEATURE_BYTES = 256 * 2**20


class Frames(Protocol):
    """All that is asked of the frames of a video."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame_idx: int, /) -> Tensor: ...


class Encoded(NamedTuple):
    """A frame, and what the image encoder makes of it."""

    image: Tensor  #: `[1, 3, S, S]`
    backbone_out: dict[str, Any]  #: as of `SAM2Base.forward_image`

    @classmethod
    def of(cls, model: SAM2Base, image: Tensor) -> Encoded:
        """Encode an image `[3, S, S]`."""
        (encoded,) = _encode(model, [image])
        return encoded

    @property
    def nbytes(self) -> int:
        # Positions are the same for all frames.
        maps = [self.image, *self.backbone_out["backbone_fpn"]]
        return sum(x.numel() * x.element_size() for x in maps)


class FeatureCache:
    """Features of the frames of a video, which must not change.

    Args:
        frames: normalised images, float32 `[3, S, S]`.
        max_bytes: bound on the features kept, those used last; two batches are kept in any case.
        ahead: how many frames a thread encodes at once, ahead of the one that is asked for; with 0
            none.
    """

    def __init__(
        self, frames: Frames, max_bytes: int = DEFAULT_FEATURE_BYTES, ahead: int = 0
    ) -> None:
        self.frames = frames
        self._max_bytes = max_bytes
        self._ahead = ahead
        self._lock = threading.Lock()
        self._key: object = None  # of the weights that made what is kept
        self._kept: OrderedDict[int, tuple[Encoded, Event]] = OrderedDict()
        self._coming: dict[int, Future[None]] = {}

    def get(self, model: SAM2Base, frame_idx: int, then: Sequence[int] = ()) -> Encoded:
        """The features of a frame.

        Args:
            then: the frames that will be asked for after it.

        Raises:
            Exception: whatever reading the frame raises. What cannot be read ahead is left until it
                is asked for.
        """
        key = features_key(model)
        if key is None:  # parts that are not the package's own run each time
            return Encoded.of(model, self.frames[frame_idx])
        with self._lock:
            coming = self._coming.get(frame_idx)
        if coming is not None:
            coming.result()
        found = self.find(key, frame_idx)
        if found is None:
            found = Encoded.of(model, self.frames[frame_idx])
            self.keep(key, {frame_idx: found})
        self._look_ahead(model, key, then[: 2 * self._ahead])
        return found

    def find(self, key: object, frame_idx: int) -> Encoded | None:
        """The features of a frame if they are kept and made by the weights of `features_key`."""
        with self._lock:
            if self._key is not key or frame_idx not in self._kept:
                return None
            self._kept.move_to_end(frame_idx)
            encoded, done = self._kept[frame_idx]
        done.wait(tensors(encoded))
        return encoded

    def keep(self, key: object, encoded: dict[int, Encoded]) -> None:
        """Keep features encoded on the current stream; evict those used least recently."""
        done = record_event(next(tensors(list(encoded.values()))).device)
        with self._lock:
            if self._key is not key:
                self._key = key
                self._kept.clear()
            self._kept.update({t: (x, done) for t, x in encoded.items()})
            size = sum(x.nbytes for x, _ in self._kept.values())
            while size > self._max_bytes and len(self._kept) > 2 * self._ahead + 1:
                size -= self._kept.popitem(last=False)[1][0].nbytes

    def _look_ahead(self, model: SAM2Base, key: object, then: Sequence[int]) -> None:
        """Have a batch of coming frames encoded, once enough of them are missing for one."""
        with self._lock:
            known = self._kept.keys() | self._coming.keys() if self._key is key else set()
            missing = [t for t in then if t not in known]
            if len(missing) < min(self._ahead, len(then)) or not missing:
                return
            batch = missing[: self._ahead]
            # Folded weights may have been queued on the caller's stream only just now.
            begun = record_event(model.device)
            work = _background().submit(_as_here(model, self._encode_ahead), model, batch, begun)
            self._coming.update(dict.fromkeys(batch, work))

    def _encode_ahead(self, model: SAM2Base, batch: Sequence[int], begun: Event) -> None:
        try:
            with side_stream(model.device, "encoder").enter():
                begun.wait()
                encode_together(model, [(self, t) for t in batch])
        except Exception:
            # It shows again when the frame is asked for, by whoever can be told.
            pass
        finally:
            with self._lock:
                for frame_idx in batch:
                    self._coming.pop(frame_idx, None)


def encode_together(model: SAM2Base, wanted: Sequence[tuple[FeatureCache, int]]) -> None:
    """Encode frames, of one video or several, in one batch, and have their stages keep them.

    Raises:
        Exception: whatever reading a frame raises; those before it have been encoded.
    """
    key = features_key(model)
    if key is None:
        return
    missing = [(stage, t) for stage, t in wanted if stage.find(key, t) is None]
    images: list[Tensor] = []
    try:
        for stage, frame_idx in missing:
            images.append(stage.frames[frame_idx])
    finally:
        for (stage, frame_idx), encoded in zip(missing, _encode(model, images), strict=False):
            stage.keep(key, {frame_idx: encoded})


def _encode(model: SAM2Base, images: Sequence[Tensor]) -> list[Encoded]:
    if not images:
        return []
    batch = torch.stack([image.to(model.device).float() for image in images])
    out = encode_image(model, batch)
    return [
        Encoded(
            batch[i : i + 1],
            {
                "vision_features": out["vision_features"][i : i + 1],
                # Strides of its own, as of one image: a compiler looks at them.
                "vision_pos_enc": [x[0][None] for x in out["vision_pos_enc"]],
                "backbone_fpn": [x[i : i + 1] for x in out["backbone_fpn"]],
            },
        )
        for i in range(len(images))
    ]


@cache
def _background() -> ThreadPoolExecutor:
    """The one thread that encodes, for all videos."""
    return ThreadPoolExecutor(1, thread_name_prefix="fastsam2-encode")


def _as_here(model: SAM2Base, function: Callable[..., None]) -> Callable[..., None]:
    """`function` for another thread, in the modes that hold in this one."""
    kind = model.device.type
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    known = torch.amp.is_autocast_available(kind)
    cast = known and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if known else None

    def run(*args: Any) -> None:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            if not known:
                return function(*args)
            with torch.autocast(kind, dtype, enabled=cast):
                return function(*args)

    return run
