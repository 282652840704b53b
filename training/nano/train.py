"""Train nano from scratch on synthetic video: `python -m training.nano.train --state DIR`.

Training can be interrupted and resumed at any time: DIR holds the state and a log of the losses.
The exported weights are an exponential moving average. On N cores, `torchrun --nproc-per-node N -m
training.nano.train` trains with batches N times as large. Requires PyTorch 2.9 or newer.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastsam2.build_sam import build_sam2
from training.nano.batches import Batches, Schedule
from training.nano.objective import ClipBatch, Losses, clip_losses, resize_model
from training.nano.processes import Processes

__all__ = ["Trainer", "main"]

_LOSSES = [f.name for f in fields(Losses)]


class Trainer:
    """Model, averaged weights, optimizers and step, saved to a folder and resumed from it.

    Args:
        folder: folder of the state and the log.
        device: device of the model.
        lr: learning rate after the warm-up.
        steps: total number of steps, over all runs.
        anneal: number of final steps over which the learning rate falls to zero.
        processes: processes that share the work; rank 0 writes the files.
    """

    warmup = 300

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        lr: float,
        steps: int,
        anneal: int,
        processes: Processes | None = None,
    ) -> None:
        self.folder = folder
        self.processes = processes or Processes()
        self.lr, self.steps, self.anneal = lr, steps, anneal
        torch.manual_seed(0)
        self.model = build_sam2("nano", device=device, mode="train", apply_postprocessing=False)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizers = _optimizers(self.model, lr)
        self.step = 0
        self.seconds = 0.0
        self.stopped = False
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._load(device)

    def _load(self, device: torch.device) -> None:
        state = torch.load(self.folder / "state.pt", map_location=device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Save the state atomically."""
        if self.processes.rank > 0:
            return
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def export(self, path: Path) -> None:
        """Write the averaged weights as float16 safetensors."""
        weights = {k: v.half().contiguous() for k, v in self.average.state_dict().items()}
        save_file(weights, path, metadata={"step": str(self.step)})

    def rate(self) -> float:
        """Learning rate of the current step."""
        rise = min(1.0, (self.step + 1) / self.warmup)
        fall = min(1.0, (self.steps - self.step) / max(self.anneal, 1))
        return self.lr * rise * fall

    def run(self, batches: Iterable[ClipBatch], minutes: float, autocast: bool) -> None:
        """Train until the batches or the minutes end, or `stopped` is set."""
        begin = last_saved = last_logged = time.monotonic()
        earlier = self.seconds
        sums: dict[str, list[float]] = {name: [] for name in _LOSSES}
        device = self.model.device
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                losses = self._update(batch.to(device))
            self.step += 1
            for name in _LOSSES:
                sums[name].append(float(getattr(losses, name).detach()))
            now = time.monotonic()
            self.seconds = earlier + now - begin
            if now - last_logged > 30:
                self._log(sums)
                last_logged = now
            over = self.processes.any(self.stopped or now - begin > 60 * minutes)
            if over or now - last_saved > 180:
                self.save()
                last_saved = now
            if over:
                break
        self._log(sums)
        self.save()

    def _update(self, batch: ClipBatch) -> Losses:
        for group in chain.from_iterable(o.param_groups for o in self.optimizers):
            group["lr"] = self.rate()
        for model in (self.model, self.average):
            resize_model(model, batch.images.shape[-1])
        seed = self.step * self.processes.count + self.processes.rank
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        losses = clip_losses(self.model, batch, generator)
        self.model.zero_grad(set_to_none=True)
        losses.total.backward()
        self.processes.average_gradients(list(self.model.parameters()))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        decay = min(0.999, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            for mean, value in zip(
                self.average.state_dict().values(), self.model.state_dict().values(), strict=True
            ):
                mean.lerp_(value, 1 - decay)
        return losses

    def _log(self, sums: dict[str, list[float]]) -> None:
        if self.processes.rank > 0 or not sums["total"]:
            return
        row: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds)}
        for name, values in sums.items():
            known = [v for v in values if v == v]
            row[name] = round(sum(known) / len(known), 4) if known else ""
            values.clear()
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{k} {v}" for k, v in row.items()), flush=True)


def _optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon (arXiv 2502.16982) for the matrices of hidden layers, AdamW for all other weights.

    Muon's updates are scaled to the size of AdamW's, so that both use the same learning rate.
    """
    weights = list(model.parameters())
    # Tokens and output heads have up to four rows; treat them as vectors.
    matrices = [p for p in weights if p.ndim == 2 and min(p.shape) > 4]
    others = [p for p in weights if p.ndim != 2 or min(p.shape) <= 4]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98)),
    ]


@contextmanager
def _attention(device: torch.device) -> Iterator[None]:
    """On a CPU, replace fused attention by plain products: a fifth faster per step at this size."""
    fused = F.scaled_dot_product_attention
    if device.type == "cpu":
        setattr(F, fused.__name__, _plain_attention)
    try:
        yield
    finally:
        setattr(F, fused.__name__, fused)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
    """Attention without masks and dropout, as nano uses it."""
    if dropout_p:
        raise ValueError(f"dropout is not supported, but dropout_p is {dropout_p}")
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return logits.softmax(-1).to(v.dtype) @ v


def _ignore_signals(worker: int) -> None:
    """Ignore stop signals in workers: the trainer needs them until it has stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder of state and log")
    parser.add_argument("--export", type=Path, help="output file of the averaged weights")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--steps", type=int, default=120_000, help="total steps, over all runs")
    parser.add_argument("--anneal", type=int, default=4000, help="steps of the final decay")
    parser.add_argument("--lr", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw clips")
    parser.add_argument(
        "--small-steps", type=int, default=Schedule.small_steps, help="steps at half the image size"
    )
    parser.add_argument(
        "--easy-steps", type=int, default=Schedule.easy_steps, help="steps until the final mixture"
    )
    parser.add_argument("--frames", type=int, default=Schedule.frames, help="frames per batch")
    parser.add_argument("--masks", type=int, default=Schedule.max_masks, help="masks per batch")
    parser.add_argument(
        "--burn-in", type=int, default=Schedule.max_burn_in, help="most burn-in frames"
    )
    args = parser.parse_args()

    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
        os.nice(10)
    schedule = Schedule(args.small_steps, args.easy_steps, args.frames, args.masks, args.burn_in)
    processes = Processes.started()
    trainer = Trainer(args.state, device, args.lr, args.steps, args.anneal, processes)

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    batches = DataLoader(
        Batches(args.steps, schedule, processes.rank, processes.count),
        batch_size=None,
        sampler=range(trainer.step, args.steps),
        num_workers=args.workers,
        prefetch_factor=4 if args.workers else None,
        worker_init_fn=_ignore_signals,
        pin_memory=device.type == "cuda",
    )
    with _attention(device):
        trainer.run(batches, args.minutes, autocast=True)
    if args.export and processes.rank == 0:
        resize_model(trainer.average, 256)
        trainer.export(args.export)


if __name__ == "__main__":
    main()
