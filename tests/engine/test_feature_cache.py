"""Features are encoded once, ahead in batches if requested, and cached within a byte limit."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam2 import SAM2VideoPredictor
from fastsam2.engine import feature_cache
from fastsam2.engine.feature_cache import Encoded, FeatureCache
from fastsam2.engine.fused.image_encoder import FusedImageEncoder, fused_image_encoder
from fastsam2.engine.runtime.cuda_graphs import Graphed
from tests.engine.runtime.recorder import FakeRecorder
from tests.predictors.nano import nano_predictor
from tests.reference import randomise_
from tests.support import relative_error

LENGTH = 20
CPU = torch.device("cpu")


class Frames:
    """Random frames; `broken` ones cannot be read."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.images = torch.randn(LENGTH, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        self.broken = broken
        self.read: list[int] = []

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, frame_idx: int) -> Tensor:
        self.read.append(frame_idx)
        if frame_idx in self.broken:
            raise OSError(f"frame {frame_idx} is damaged")
        return self.images[frame_idx]


@pytest.fixture(scope="module")
def model() -> SAM2VideoPredictor:
    return nano_predictor()


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def encode(model: SAM2VideoPredictor) -> FusedImageEncoder:
    found = fused_image_encoder(model)
    assert found is not None
    return found


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of images in each call of the encoder."""
    sizes: list[int] = []
    run = FusedImageEncoder.__call__

    def spy(self: FusedImageEncoder, images: Tensor) -> Any:
        sizes.append(len(images))
        return run(self, images)

    monkeypatch.setattr(FusedImageEncoder, "__call__", spy)
    return sizes


def assert_right(model: SAM2VideoPredictor, encoded: Encoded, image: Tensor) -> None:
    assert torch.equal(encoded.image[0], image)
    expected = model.forward_image(image[None])
    assert encoded.backbone_out.keys() == expected.keys()
    for key in ("backbone_fpn", "vision_pos_enc"):
        for a, b in zip(encoded.backbone_out[key], expected[key], strict=True):
            assert relative_error(a, b) <= 1e-5


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_each_frame_is_encoded_once(
    encode: FusedImageEncoder, model: SAM2VideoPredictor, batches: list[int], ahead: int
) -> None:
    frames = Frames()
    stage = FeatureCache(frames, ahead=ahead)
    for t in range(LENGTH):
        assert_right(model, stage.get(encode, CPU, t, range(t + 1, LENGTH)), frames.images[t])
    assert frames.read == list(range(LENGTH))
    # The first frame does not wait for others; the last batch is the remainder.
    full, rest = divmod(LENGTH - 1, ahead) if ahead else (LENGTH - 1, 0)
    assert batches == [1] + [ahead or 1] * full + [rest] * bool(rest)


def test_backward(encode: FusedImageEncoder, model: SAM2VideoPredictor, batches: list[int]) -> None:
    frames = Frames()
    stage = FeatureCache(frames, ahead=4)
    for t in range(10, -1, -1):
        assert_right(model, stage.get(encode, CPU, t, range(t - 1, -1, -1)), frames.images[t])
    assert batches == [1, 4, 4, 2]


def test_cache_stays_within_its_limit(encode: FusedImageEncoder, model: SAM2VideoPredictor) -> None:
    frames = Frames()
    (encoded,) = Encoded.of(encode, [frames.images[0]], CPU)
    size = encoded.nbytes
    stage = FeatureCache(frames, max_bytes=3 * size + 1)
    for t in (0, 1, 2, 0, 3):
        stage.get(encode, CPU, t)
    frames.read.clear()
    for t in (3, 0, 2):  # 1 was used least recently
        stage.get(encode, CPU, t)
    assert frames.read == []
    stage.get(encode, CPU, 1)
    assert frames.read == [1]
    assert len(stage._kept) == 3


def test_zero_limit_keeps_the_current_batches(
    encode: FusedImageEncoder, model: SAM2VideoPredictor
) -> None:
    stage = FeatureCache(Frames(), max_bytes=0, ahead=2)
    for t in range(LENGTH):
        stage.get(encode, CPU, t, range(t + 1, LENGTH))
        assert len(stage._kept) <= 5


def test_another_encoder(batches: list[int]) -> None:
    """The encoder of changed weights encodes the frames again."""
    with torch.inference_mode(False):
        model = nano_predictor()
    frames = Frames()
    stage = FeatureCache(frames)
    for seed in (0, 1):
        with torch.inference_mode(False):
            randomise_(model, seed=seed)
        encode = fused_image_encoder(model)
        assert encode is not None
        assert_right(model, stage.get(encode, CPU, 0), frames.images[0])
    assert batches == [1, 1]


def test_unreadable_frame(encode: FusedImageEncoder, model: SAM2VideoPredictor) -> None:
    """The error is raised when the frame is requested, not by the frames before it."""
    frames = Frames(broken=(3,))
    stage = FeatureCache(frames, ahead=4)
    for t in range(3):
        stage.get(encode, CPU, t, range(t + 1, LENGTH))
    with pytest.raises(OSError, match="frame 3 is damaged"):
        stage.get(encode, CPU, 3, range(4, LENGTH))
    frames.broken = ()
    for t in range(3, LENGTH):
        assert_right(model, stage.get(encode, CPU, t, range(t + 1, LENGTH)), frames.images[t])


def test_no_memory_for_a_batch(encode: FusedImageEncoder, caplog: pytest.LogCaptureFixture) -> None:
    """Frames are encoded one by one from then on; no batch is tried in vain again."""
    tried: list[int] = []

    def full(images: Tensor) -> Any:
        tried.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(images)

    stage = FeatureCache(Frames(), ahead=4)
    for t in range(6):
        stage.get(full, CPU, t, range(t + 1, LENGTH))
    assert tried == [1, 4, 1, 1, 1, 1, 1]
    assert [r.message for r in caplog.records] == [
        "no memory to encode 4 frames at once: one by one from here"
    ]


def test_two_threads_share_a_cache(encode: FusedImageEncoder, model: SAM2VideoPredictor) -> None:
    frames, errors = Frames(), []
    stage = FeatureCache(frames, ahead=2)

    def run() -> None:
        try:
            with torch.inference_mode():
                for t in range(LENGTH):
                    found = stage.get(encode, CPU, t, range(t + 1, LENGTH))
                    assert_right(model, found, frames.images[t])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_autocast_applies_to_frames_encoded_ahead(model: SAM2VideoPredictor) -> None:
    stage = FeatureCache(Frames(), ahead=2)
    with torch.autocast("cpu", torch.bfloat16):
        encode = fused_image_encoder(model)
        assert encode is not None
        for t in range(3):
            found = stage.get(encode, CPU, t, range(t + 1, 3))
            assert found.backbone_out["backbone_fpn"][0].dtype == torch.bfloat16


def test_tracker_waits_for_frames_encoded_ahead(
    encode: FusedImageEncoder, model: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are encoded ahead on a side stream, which first waits for the caller's stream;
    readers wait for the event recorded after them."""
    streams = FakeStreams()
    monkeypatch.setattr(feature_cache, "side_stream", streams.side_stream)
    monkeypatch.setattr(feature_cache, "record_event", streams.record_event)

    def spy(images: Tensor) -> Any:
        streams.log.append(("encode", streams.current, len(images)))
        return encode(images)

    stage = FeatureCache(Frames(), ahead=2)
    for t in range(6):
        stage.get(spy, CPU, t, then=range(t + 1, 6))
    # The caller encodes the first batch, frames 1 and 2: it may compile or record.
    assert streams.log.count(("encode", "caller", 2)) == 1
    begun, ahead = ("wait", "encoder", "caller 2"), ("encode", "encoder", 2)
    assert streams.log.count(ahead) == 1
    assert streams.log.index(begun) < streams.log.index(ahead)
    # Frames 3 and 4, and frame 5, come from the side stream, each batch with one event.
    made = [
        name for what, where, name in streams.log if (what, where) == ("record_event", "encoder")
    ]
    for name, frames in zip(made, (2, 1), strict=True):
        assert streams.log.count(("wait", "caller", name)) == frames
        # Of each frame the image, the features twice, and their positions.
        assert streams.used[name] == 8 * frames


def test_the_caller_encodes_a_batch_that_can_be_recorded() -> None:
    """The encoder's thread records no graphs."""
    recorder, threads = FakeRecorder(), []

    def levels(images: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        return images * 2

    run = Graphed(levels, recorder, after=2)

    def encode(images: Tensor) -> dict[str, Any]:
        found = [run(images)]
        return {"vision_features": found[0], "vision_pos_enc": found, "backbone_fpn": found}

    stage = FeatureCache(Frames(), ahead=1)
    for t in range(6):
        stage.get(encode, CPU, t, then=range(t + 1, 6))
    assert recorder.recorded == 1
    assert recorder.replayed >= 2
    assert threads[-1] is threading.main_thread()


class FakeStreams:
    """Streams that record the operations queued on them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Any]] = []
        self.used: dict[str, int] = {}
        self._local = threading.local()
        self._marks = count()

    @property
    def current(self) -> str:
        return getattr(self._local, "name", "caller")

    def side_stream(self, device: torch.device, name: str) -> Any:
        @contextmanager
        def enter() -> Iterator[None]:
            self._local.name = name
            yield
            del self._local.name

        return SimpleNamespace(enter=enter)

    def record_event(self, device: torch.device) -> Any:
        name = f"{self.current} {next(self._marks)}"
        self.log.append(("record_event", self.current, name))

        def wait(used: Iterable[Tensor] = ()) -> None:
            self.log.append(("wait", self.current, name))
            self.used[name] = self.used.get(name, 0) + len(list(used))

        return SimpleNamespace(wait=wait)
