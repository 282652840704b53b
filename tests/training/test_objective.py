"""Training losses of nano; training lowers them, and can be stopped and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsam2.build_sam import build_sam2
from training.nano.batches import Batches, Schedule
from training.nano.objective import ClipBatch, _dice, _focal, clip_losses, resize_model
from training.nano.train import Trainer

TINY = Schedule(small_steps=0, easy_steps=1, frames=2, max_masks=8)


def batch_of(frames: int, size: int = 64, objects: int = 3) -> ClipBatch:
    masks = torch.zeros(objects, frames, size, size, dtype=torch.bool)
    for i in range(objects):
        masks[i, :, 8 + 12 * i : 24 + 12 * i, 10:30] = True
    images = masks.any(0).float()[None, :, None].repeat(1, 1, 3, 1, 1) * 2 - 1
    return ClipBatch(images, masks, torch.zeros(objects, dtype=torch.long))


needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="training needs the optimizer Muon, of PyTorch 2.9"
)


def trainer(folder: Path) -> Trainer:
    return Trainer(folder, torch.device("cpu"), lr=1e-3, steps=100, anneal=10)


def test_focal_is_cross_entropy_weighted_by_the_squared_error() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.rand(2, 1, 4, 4)
    expected = (
        F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
        * (logits.sigmoid() - target) ** 2
    )
    torch.testing.assert_close(_focal(logits, target), expected)


def test_dice_of_a_perfect_and_of_a_disjoint_mask() -> None:
    target = torch.zeros(1, 1, 32, 32)
    target[..., :16] = 1
    perfect, disjoint = (target * 2 - 1) * 50, (1 - target * 2) * 50
    assert _dice(perfect, target).item() == pytest.approx(0, abs=1e-5)
    assert _dice(disjoint, target).item() == pytest.approx(1, abs=2e-3)


def test_every_weight_learns() -> None:
    """A clip of four frames trains all parameters except those used by inference only.

    Memory attention runs for the first time while burning in: the weights that autocast then keeps
    for later frames must learn all the same.
    """
    torch.manual_seed(0)
    model = build_sam2("nano", device="cpu", mode="train")
    resize_model(model, 64)
    batch = replace(batch_of(4), burn_in=1)
    batch.masks[0, 1:] = False  # one object leaves, so that the embeddings of absence are trained
    for masks in (1.0, 0.0):
        with torch.autocast("cpu", torch.bfloat16):
            losses = clip_losses(
                model, batch, torch.Generator().manual_seed(0), refine=1.0, masks=masks
            )
        losses.total.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert all(
        name.startswith(("no_mem_pos_enc", "image_encoder.neck.convs.0")) for name in idle
    ), idle
    assert 0 <= losses.first_iou <= 1
    assert 0 <= losses.tracked_iou <= 1


def test_nothing_is_learnt_from_frames_burnt_in() -> None:
    torch.manual_seed(0)
    model = build_sam2("nano", device="cpu", mode="train")
    resize_model(model, 64)
    batch = batch_of(5)
    batch = replace(batch, images=batch.images.requires_grad_(), burn_in=2)
    clip_losses(model, batch, torch.Generator().manual_seed(0)).total.backward()
    assert batch.images.grad is not None
    learnt_from = [bool(frame.any()) for frame in batch.images.grad[0]]
    assert learnt_from == [True, False, False, True, True]


def test_absent_objects_have_no_mask_to_learn() -> None:
    torch.manual_seed(0)
    model = build_sam2("nano", device="cpu", mode="train")
    resize_model(model, 64)
    batch = batch_of(2)
    batch.masks[:, 1] = False
    losses = clip_losses(model, batch, torch.Generator().manual_seed(0), refine=0.0, masks=0.0)
    assert losses.tracked_iou == 0
    assert torch.isfinite(losses.total)


@pytest.mark.slow
@needs_muon
def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.warmup = 1
    batch = batch_of(1)
    first = float(run._update(batch).mask)
    for _ in range(12):
        run.step += 1
        last = float(run._update(batch).mask)
    assert last < 0.8 * first


@needs_muon
def test_every_weight_has_one_optimizer(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    muon, adam = ([p for g in o.param_groups for p in g["params"]] for o in run.optimizers)
    assert sorted(map(id, muon + adam)) == sorted(map(id, run.model.parameters()))
    linear = {id(m.weight): m for m in run.model.modules() if isinstance(m, nn.Linear)}
    heads = [m for i, m in linear.items() if i not in set(map(id, muon))]
    assert len(muon) + len(heads) == len(linear)
    assert [m.out_features for m in heads] == [4, 1]  # predicted IoU, object score


@pytest.mark.slow
@needs_muon
def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    batches = [Batches(4, TINY)[i] for i in range(4)]
    whole = trainer(tmp_path / "whole")
    whole.run(batches, minutes=10, autocast=False)
    trainer(tmp_path / "parts").run(batches[:2], minutes=10, autocast=False)
    resumed = trainer(tmp_path / "parts")
    assert resumed.step == 2
    resumed.run(batches[2:], minutes=10, autocast=False)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    assert (tmp_path / "parts" / "log.csv").read_text().startswith("step,seconds,total")


def test_batches_are_the_same_for_a_step() -> None:
    a, b = Batches(10, TINY)[3], Batches(10, TINY)[3]
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.masks, b.masks)
    assert a.masks[:, 0].flatten(1).any(1).all()  # every object is visible on frame 0
    assert a.clip.max() < len(a.images)
    assert a.masks.shape[1] == a.images.shape[1]


@pytest.mark.slow
def test_processes_share_a_step() -> None:
    """Shares of a step have different clips of equal length."""
    for step in range(4):
        a, b = (Batches(10, TINY, share, 2)[step] for share in (0, 1))
        assert a.images.shape == b.images.shape
        assert a.burn_in == b.burn_in
        assert not torch.equal(a.images, b.images)


@pytest.mark.slow
def test_long_clips_are_burnt_in() -> None:
    batches = Batches(40, replace(TINY, max_masks=2))
    burnt = [batch.burn_in for batch in map(batches.__getitem__, range(20)) if batch.burn_in]
    assert len(set(burnt)) > 3
    assert max(burnt) <= TINY.max_burn_in


@needs_muon
def test_exported_weights_load_by_name(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    path = tmp_path / "nano.safetensors"
    run.export(path)
    assert path.stat().st_size < 20e6
    loaded = build_sam2(None, path, device="cpu")
    assert loaded.image_size == 256
    for name, value in loaded.state_dict().items():
        expected = run.average.state_dict()[name].half().to(value.dtype)
        assert torch.equal(value, expected), name
