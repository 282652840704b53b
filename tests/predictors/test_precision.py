"""Half precision on the CPU, without and within a caller's autocast, against float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastsam2.build_sam import build_sam2_video_predictor
from tests.predictors.nano import nano_predictor
from tests.predictors.video_script import box, play, points, propagate
from tests.reference import randomise_
from tests.support import SHALLOW, Pair

SCRIPT = [
    points(0, 1, [[50, 60]], [1]),
    box(0, 2, [20, 20, 90, 100]),
    propagate(max_frame_num_to_track=4),
]


@pytest.fixture(scope="module")
def exact(tiny_pair: Pair, clip: Path) -> torch.Tensor:
    return logits_of(play(tiny_pair.ours, clip, SCRIPT))


@pytest.fixture(scope="module")
def allowed(tiny_pair: Pair, clip: Path, exact: torch.Tensor) -> float:
    """Return twice the error of `sam2` under bfloat16 autocast, its intended use."""
    with torch.autocast("cpu", torch.bfloat16):
        return 2 * error(logits_of(play(tiny_pair.ref, clip, SCRIPT)), exact)


def logits_of(outputs: list[torch.Tensor]) -> torch.Tensor:
    logits = [x for x in outputs if x.ndim == 4]
    assert all(x.dtype == torch.float32 for x in logits)
    return torch.cat([x.flatten() for x in logits])


def error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the root mean square difference, in standard deviations of the exact logits."""
    return float((logits - exact).square().mean().sqrt() / exact.std())


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["alone", "within autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights(
    tiny_pair: Pair,
    clip: Path,
    exact: torch.Tensor,
    allowed: float,
    dtype: torch.dtype,
    autocast: bool,
) -> None:
    predictor = build_sam2_video_predictor(
        "sam2.1-tiny",
        device="cpu",
        dtype=dtype,
        hydra_overrides_extra=["++model.image_size=256", *SHALLOW],
    )
    predictor.load_state_dict(tiny_pair.ref.state_dict())
    predictor.fill_hole_area = 0
    assert predictor.dtype == dtype
    with torch.autocast("cpu", dtype, enabled=autocast):
        logits = logits_of(play(predictor, clip, SCRIPT))
    assert 0 < error(logits, exact) <= allowed


@pytest.mark.slow
def test_float32_weights_within_autocast(
    tiny_pair: Pair, clip: Path, exact: torch.Tensor, allowed: float
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = logits_of(play(tiny_pair.ours, clip, SCRIPT))
    assert 0 < error(logits, exact) <= allowed


@pytest.mark.slow
def test_autocast_costs_what_half_precision_costs(clip: Path) -> None:
    """A copy in the caller's dtype runs, with the current weights and options."""
    single, half = nano_predictor(), nano_predictor(dtype=torch.bfloat16)
    for change in (None, "weights", "options"):
        if change == "weights":
            for model in (single, half):
                randomise_(model, seed=1)
        if change == "options":
            single.fill_hole_area = half.fill_hole_area = 0
        expected = play(half, clip, SCRIPT)
        with torch.autocast("cpu", torch.bfloat16):
            found = play(single, clip, SCRIPT)
        assert single.dtype == torch.float32
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


def test_half_precision_weights_ignore_autocast_in_their_dtype(clip: Path) -> None:
    model = nano_predictor(dtype=torch.bfloat16)
    expected = play(model, clip, SCRIPT)
    with torch.autocast("cpu", torch.bfloat16):
        found = play(model, clip, SCRIPT)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_hooks_run_within_autocast(clip: Path) -> None:
    model = nano_predictor()
    seen: list[bool] = []
    model.memory_encoder.register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    with torch.autocast("cpu", torch.bfloat16):
        play(model, clip, SCRIPT)
    assert seen
    assert all(seen)


def test_bfloat16_memory_costs_little(tiny_pair: Pair, clip: Path, exact: torch.Tensor) -> None:
    """bfloat16 is the default; its rounding error is 2**-9."""
    tiny_pair.ours.memory_dtype = torch.bfloat16
    try:
        logits = logits_of(play(tiny_pair.ours, clip, SCRIPT))
    finally:
        tiny_pair.ours.memory_dtype = torch.float32
    assert 0 < error(logits, exact) < 2**-9
