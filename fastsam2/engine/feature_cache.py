"""Image features of a video: encoded on request or ahead of it, and cached.

One cache serves all sessions on a video, from any thread.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastsam2.engine.runtime.cuda_graphs import replay_only
from fastsam2.engine.runtime.pytree import tensors
from fastsam2.engine.runtime.streams import Event, record_event, side_stream
from fastsam2.engine.runtime.upload import to_device
from fastsam2.processes import renew_in_child

_LOG = logging.getLogger(__name__)

__all__ = ["DEFAULT_FEATURE_BYTES", "Encode", "Encoded", "FeatureCache", "Frames"]

#: Default bound of a cache: 9 frames of 1024 pixels in float32.
DEFAULT_FEATURE_BYTES = 256 * 2**20

#: Encodes images `[B, 3, S, S]`, such as `SAM2Base.forward_image`.
Encode = Callable[[Tensor], dict[str, Any]]


class Frames(Protocol):
    """Frames of a video."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame_idx: int, /) -> Tensor: ...


class Encoded(NamedTuple):
    """A frame and its features."""

    image: Tensor  #: `[1, 3, S, S]`
    backbone_out: dict[str, Any]  #: as `SAM2Base.forward_image` returns it

    @classmethod
    def of(cls, encode: Encode, images: Sequence[Tensor], device: torch.device) -> list[Encoded]:
        """Encode images `[3, S, S]` in one batch."""
        found = [to_device(image, device).float() for image in images]
        batch = torch.stack(found) if len(found) > 1 else found[0][None]
        out = encode(batch)
        return [
            cls(
                batch[i : i + 1],
                {
                    **out,
                    "vision_features": out["vision_features"][i : i + 1],
                    # With the strides of a single image, on which compiled functions depend.
                    "vision_pos_enc": [x[0][None] for x in out["vision_pos_enc"]],
                    "backbone_fpn": [x[i : i + 1] for x in out["backbone_fpn"]],
                },
            )
            for i in range(len(images))
        ]

    @property
    def nbytes(self) -> int:
        # Positions are shared by all frames.
        maps = [self.image, *self.backbone_out["backbone_fpn"]]
        return sum(x.numel() * x.element_size() for x in maps)


class FeatureCache:
    """Least-recently-used cache of the features of a video's frames, which must not change.

    Args:
        frames: normalised images, float32 `[3, S, S]`.
        max_bytes: bound on the cached features; two batches are kept even if they exceed it.
        ahead: frames that a thread encodes in one batch, ahead of the requested one; 0 disables it.
            The caller's thread encodes the first batch, which may compile, and one that can be
            recorded.
    """

    def __init__(
        self, frames: Frames, max_bytes: int = DEFAULT_FEATURE_BYTES, ahead: int = 0
    ) -> None:
        self.frames = frames
        self._max_bytes = max_bytes
        self._ahead = ahead
        self._lock = threading.Lock()
        self._encode: Encode | None = None  # the encoder of the cached features
        # The encoder, unless the caller's thread is to encode the next batch.
        self._batched: Encode | None = None
        self._kept: OrderedDict[int, tuple[Encoded, Event]] = OrderedDict()
        self._coming: dict[int, Future[None]] = {}
        renew_in_child(self)

    def renew(self) -> None:
        """Start over without a thread, in a forked process; cached features stay."""
        self._lock = threading.Lock()
        self._coming = {}
        _background.cache_clear()

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Frames, int, int]]:
        # Copies and pickles are empty.
        return FeatureCache, (self.frames, self._max_bytes, self._ahead)

    def get(
        self, encode: Encode, device: torch.device, frame_idx: int, then: Sequence[int] = ()
    ) -> Encoded:
        """Return the features of a frame.

        Args:
            encode: the encoder; cached features of another one are discarded.
            device: device of the encoder.
            then: the frames that will be requested next.

        Raises:
            Exception: any error of reading the frame. Errors of reading ahead are raised once the
                frame itself is requested.
        """
        with self._lock:
            coming = self._coming.get(frame_idx)
        if coming is not None:
            coming.result()
        encoded = self._find(encode, frame_idx)
        if encoded is None:
            (encoded,) = Encoded.of(encode, [self.frames[frame_idx]], device)
            self._keep(encode, {frame_idx: encoded})
        if self._ahead:
            self._encode_ahead(encode, device, then[: 2 * self._ahead])
        return encoded

    def _find(self, encode: Encode, frame_idx: int) -> Encoded | None:
        with self._lock:
            if self._encode is not encode or frame_idx not in self._kept:
                return None
            self._kept.move_to_end(frame_idx)
            encoded, done = self._kept[frame_idx]
        done.wait(tensors(encoded))
        return encoded

    def _keep(self, encode: Encode, encoded: dict[int, Encoded]) -> None:
        """Cache features encoded on the current stream; evict those used least recently."""
        done = record_event(next(tensors(list(encoded.values()))).device)
        with self._lock:
            if self._encode is not encode:
                self._encode = encode
                self._kept.clear()
            self._kept.update({t: (x, done) for t, x in encoded.items()})
            size = sum(x.nbytes for x, _ in self._kept.values())
            while size > self._max_bytes and len(self._kept) > 2 * self._ahead + 1:
                size -= self._kept.popitem(last=False)[1][0].nbytes

    def _encode_ahead(self, encode: Encode, device: torch.device, then: Sequence[int]) -> None:
        """Start to encode the next batch of frames once enough of them are missing."""
        with self._lock:
            same = self._encode is encode
            known = self._kept.keys() | self._coming.keys() if same else set()
            missing = [t for t in then if t not in known]
            if len(missing) < min(self._ahead, len(then)) or not missing:
                return
            batch = missing[: self._ahead]
            first = self._batched is not encode
            self._batched = encode
            if not first:
                # Folded weights may have been queued on the caller's stream only just now.
                begun = record_event(device)
                work = _background().submit(
                    self._encode_in_background,
                    encode,
                    device,
                    batch,
                    begun,
                    torch.is_inference_mode_enabled(),
                    torch.is_grad_enabled(),
                )
                self._coming.update(dict.fromkeys(batch, work))
        if first:
            self._encode_batch(encode, device, batch)

    def _encode_in_background(
        self,
        encode: Encode,
        device: torch.device,
        batch: Sequence[int],
        begun: Event,
        inference: bool,
        grad: bool,
    ) -> None:
        """Encode frames on the side stream, in the caller's modes."""
        try:
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(grad),
                side_stream(device, "encoder").enter(),
                replay_only() as thread,
            ):
                begun.wait()
                self._encode_batch(encode, device, batch)
                if thread.missed:
                    self._batched = None
        finally:
            with self._lock:
                for frame_idx in batch:
                    self._coming.pop(frame_idx, None)

    def _encode_batch(self, encode: Encode, device: torch.device, batch: Sequence[int]) -> None:
        images = {}
        for t in batch:
            try:
                images[t] = self.frames[t]
            except Exception:
                # A client's frames may raise anything; `get` reads them again and raises.
                break
        if not images:
            return
        try:
            encoded = Encoded.of(encode, list(images.values()), device)
        except torch.OutOfMemoryError:
            _LOG.warning("no memory to encode %d frames at once: one by one from here", len(batch))
            self._ahead = 0
        else:
            self._keep(encode, dict(zip(images, encoded, strict=True)))


@cache
def _background() -> ThreadPoolExecutor:
    """Return the thread that encodes ahead, for all videos."""
    return ThreadPoolExecutor(1, thread_name_prefix="fastsam2-encode")
