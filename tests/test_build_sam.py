"""Builders: devices, modes, options, and loading of weights."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam2.build_sam import build_sam2, build_sam2_video_predictor
from fastsam2.engine.plan import Plan
from fastsam2.errors import CheckpointError, ConfigError, DeviceError
from fastsam2.sam2_video_predictor import SAM2VideoPredictor

SMALL = ["++model.image_size=128"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda() -> None:
    with pytest.raises(DeviceError, match=r"'cuda'.*no CUDA; use device='cpu'"):
        build_sam2("sam2.1-tiny", device="cuda")
    assert build_sam2("sam2.1-tiny", hydra_overrides_extra=SMALL).device.type == "cpu"


def test_unknown_device_and_mode() -> None:
    with pytest.raises(DeviceError, match="unknown device 'gpu'"):
        build_sam2("sam2.1-tiny", device="gpu")
    with pytest.raises(ConfigError, match="'eval' or 'train', not 'test'"):
        build_sam2("sam2.1-tiny", device="cpu", mode="test")
    assert build_sam2("sam2.1-tiny", device="cpu", mode="train").training


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'sam2.1-tinny'; nearest is 'sam2.1-tiny'"):
        build_sam2("sam2.1-tinny")
    with pytest.raises(ConfigError, match="config_file or ckpt_path must be given"):
        build_sam2(None)


def test_weights_that_are_not_recognised_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: not the weights of a SAM 2 model"):
        build_sam2(None, tmp_path / "other.pt")


def test_postprocessing_and_overrides() -> None:
    plain = build_sam2_video_predictor("sam2.1-tiny", device="cpu", apply_postprocessing=False)
    assert (plain.fill_hole_area, plain.binarize_mask_from_pts_for_mem_enc) == (0, False)
    assert not plain.sam_mask_decoder.dynamic_multimask_via_stability
    usual = build_sam2_video_predictor(
        "sam2.1-tiny", device="cpu", hydra_overrides_extra=["++model.fill_hole_area=3"]
    )
    assert (usual.fill_hole_area, usual.binarize_mask_from_pts_for_mem_enc) == (3, True)
    assert usual.sam_mask_decoder.dynamic_multimask_via_stability


def test_coordinates_stay_float32() -> None:
    model = build_sam2("sam2.1-tiny", device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers()} == {torch.float32}


def test_compiled_image_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option of `sam2` is part of the plan, and does not compile the track step."""
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: compiled.append(f.__name__) or f)
    option = ["++model.compile_image_encoder=true"]
    for build in (build_sam2, build_sam2_video_predictor):
        model = build("nano", device="cpu", hydra_overrides_extra=[*SMALL, *option])
        assert model.runner.plan == Plan(compile="encoder")
    state = model.init_state(np.zeros((3, 90, 120, 3), np.uint8))
    model.add_new_points_or_box(state, 0, 1, box=[20, 20, 90, 80])
    assert len(list(model.propagate(state))) == 3
    assert compiled == ["pyramid"]
    assert build_sam2_video_predictor(
        "nano", device="cpu", hydra_overrides_extra=option, vos_optimized=True
    ).plan == Plan(compile=True)


def test_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**kwargs: Any) -> SAM2VideoPredictor:
        return build_sam2_video_predictor("nano", device="cpu", **kwargs)

    assert build().plan == Plan()
    assert build(vos_optimized=True).plan == Plan(compile=True)
    plan = Plan(torch.bfloat16, encoder_batch=2)
    model = build(plan=plan, impl="reference")
    assert model.plan == replace(plan, impl="reference")
    assert (model.dtype, model.impl) == (torch.bfloat16, "reference")
    assert build(plan=plan, dtype=torch.float16).dtype == torch.float16
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("fastsam2.engine.plan._cpu_multiplies_bf16", lambda fast=fast: fast)
        assert build(plan="auto").plan == Plan(dtype)


def test_unsupported_plans_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**kwargs: Any) -> SAM2VideoPredictor:
        return build_sam2_video_predictor("nano", device="cpu", **kwargs)

    for kwargs, match in (({"impl": "cuda"}, "'cuda'"), ({"plan": "fast"}, "not 'fast'")):
        with pytest.raises(ConfigError, match=match):
            build(**kwargs)
    with pytest.raises(DeviceError, match="not cpu"):
        build(plan=Plan(graphs=True))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(DeviceError, match="cpu"):
        build(impl="triton")


LOAD = """
import sys, threading
import torch
from fastsam2.build_sam import build_sam2
torch.nn.Linear(4, 4)(torch.ones(4))

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

before = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
model = build_sam2(None, sys.argv[1], device="cpu")
done.set()
watcher.join()
weights = sum(p.nbytes for p in model.parameters()) / 1024
print((max(peak, anonymous()) - before) / weights)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_weights_are_loaded_without_a_second_copy(tmp_path: Path) -> None:
    path = tmp_path / "base_plus.pt"
    model = build_sam2("sam2.1-base_plus", device="cpu")
    torch.save({"model": model.state_dict()}, path)
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert 0.9 < float(result.stdout) < 1.3
