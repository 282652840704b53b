"""The folded, batched memory attention equals the module, and knows when to step aside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fastsam2.build_sam import build_sam2_video_predictor
from fastsam2.engine.block_tables import block_tables
from fastsam2.engine.fused import cpu_tiling
from fastsam2.engine.fused.image_encoder import FrameFeatures
from fastsam2.engine.fused.memory_attention import memory_reader
from fastsam2.engine.memory_pool import MemoryPool
from fastsam2.modeling.memory_selection import MemorySelection
from fastsam2.modeling.memory_tokens import memory_tokens
from fastsam2.sam2_video_predictor import SAM2VideoPredictor
from tests.engine.memories import features, selection
from tests.reference import randomise_
from tests.support import relative_error

SIZE = 128


@pytest.fixture(params=["sam2.1-tiny", "sam2-tiny", "nano"])
def model(request: pytest.FixtureRequest) -> SAM2VideoPredictor:
    with torch.inference_mode(False):
        predictor = build_sam2_video_predictor(
            request.param, device="cpu", hydra_overrides_extra=[f"++model.image_size={SIZE}"]
        )
        randomise_(predictor)
    return predictor


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def by_module(model: SAM2VideoPredictor, frame: FrameFeatures, read: MemorySelection) -> Tensor:
    return model.attend_to_memory(frame.pix_feat, frame.pix_pos, *memory_tokens(model, read))


def by_reader(
    model: SAM2VideoPredictor, frame: FrameFeatures, reads: list[MemorySelection]
) -> Tensor:
    read = memory_reader(model)
    assert read is not None
    memory = block_tables(model, MemoryPool(model), reads)
    return read(model, frame.pix_feat, frame.pix_pos, read.rope(frame.pix_feat), *memory)


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_equals_the_module_for_objects_with_different_memories(
    model: SAM2VideoPredictor, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = features(model)
    monkeypatch.setattr(cpu_tiling, "_TOKENS", at_a_time * frame.pix_feat.shape[-2:].numel())
    reads = [selection(model, *sizes) for sizes in ((1, 0), (7, 16), (3, 5))]
    out = by_reader(model, frame, reads)
    expected = torch.cat([by_module(model, frame, read) for read in reads])
    assert relative_error(out, expected) <= 1e-5
    # Alone as in company.
    assert relative_error(by_reader(model, frame, reads[1:2]), expected[1:2]) <= 1e-5


def test_follows_changed_weights(model: SAM2VideoPredictor) -> None:
    frame, read = features(model), selection(model, 2, 2)
    before = memory_reader(model)
    assert memory_reader(model) is before
    with torch.inference_mode(False):
        randomise_(model, seed=1)  # in place
    assert relative_error(by_reader(model, frame, [read]), by_module(model, frame, read)) <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.memory_attention.register_forward_hook(lambda *_: None),
        lambda m: m.memory_attention.layers[0].self_attn.register_forward_pre_hook(lambda *_: None),
        lambda m: setattr(m.memory_attention.layers[1], "forward", lambda *a, **k: a[0]),
        lambda m: setattr(m, "memory_attention", nn.Sequential(m.memory_attention)),
        lambda m: setattr(m.memory_attention.layers[0], "linear1", _Wider(m)),
        lambda m: m.memory_attention.train(),
        lambda m: m.memory_attention.compile(backend="eager"),
        lambda m: setattr(m.memory_attention.layers[0], "pos_enc_at_attn", True),
    ],
    ids=["hook", "pre-hook", "forward", "wrapped", "replaced", "train", "compiled", "option"],
)
def test_steps_aside(model: SAM2VideoPredictor, change: object) -> None:
    change(model)  # type: ignore[operator]
    assert memory_reader(model) is None


class _Wider(nn.Linear):
    """A client's own layer."""

    def __init__(self, model: SAM2VideoPredictor) -> None:
        old = model.memory_attention.layers[0].linear1
        super().__init__(old.in_features, old.out_features)
        self.eval()


def test_steps_aside_where_gradients_are_wanted(model: SAM2VideoPredictor) -> None:
    with torch.inference_mode(False):
        assert memory_reader(model) is None
    with torch.inference_mode(False), torch.no_grad():
        assert memory_reader(model) is not None


def test_within_a_callers_autocast(model: SAM2VideoPredictor) -> None:
    frame, read = features(model), selection(model, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = by_reader(model, frame, [read])  # folds the weights, too
    assert torch.equal(found, by_reader(model, frame, [read]))
    assert relative_error(found, by_module(model, frame, read)) <= 1e-5
