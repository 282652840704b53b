"""Batches of synthetic clips, determined by the step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastsam2.data.preprocess import IMAGE_MEAN, IMAGE_STD
from fastsam2.nano.synthetic import make_scene
from fastsam2_kernels.resize import normalize
from training.nano.objective import ClipBatch

__all__ = ["Batches", "Schedule"]

#: Seeds from here on are reserved for evaluation.
HELD_OUT_SEEDS = 900_000


@dataclass(frozen=True)
class Schedule:
    """Curriculum: image size, difficulty and clip length by step."""

    small_steps: int = 3000  #: steps at half the image size, four times as fast
    easy_steps: int = 12_000  #: steps until levels and lengths have their final mixture
    frames: int = 8  #: frames in a batch at full size; twice as many at half size
    max_masks: int = 20  #: bound on objects in a batch times frames per clip
    max_burn_in: int = 16  #: bound on the frames tracked between the first and those learnt from

    def image_size(self, step: int) -> int:
        return 128 if step < self.small_steps else 256

    def length(self, step: int, rng: np.random.Generator) -> int:
        """Number of frames learnt from in each clip; 1 is a still image."""
        late = self._late(step)
        chances = np.array(
            [0.4 - 0.15 * late, 0.3 - 0.05 * late, 0.2 - 0.1 * late, 0.1 + 0.3 * late]
        )
        return int(rng.choice([1, 2, 4, 6], p=chances / chances.sum()))

    def burn_in(self, step: int, length: int, rng: np.random.Generator) -> int:
        """Number of frames between the first and those learnt from, in long clips."""
        if length <= 4:
            return 0
        return int(rng.integers(1 + round(self.max_burn_in * self._late(step))))

    def stride(self, length: int, rng: np.random.Generator) -> int:
        """Frame stride; short clips span as much time as long ones, to learn appearance."""
        if length > 4:
            return int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
        return int(rng.integers(1, 1 + 24 // length))

    def level(self, step: int, rng: np.random.Generator) -> int:
        easy = 0.8 - 0.6 * self._late(step)
        return int(rng.choice([1, 2, 3], p=[easy, 0.83 * (1 - easy), 0.17 * (1 - easy)]))

    def _late(self, step: int) -> float:
        return min(1.0, step / max(self.easy_steps, 1))


class Batches(Dataset[ClipBatch]):
    """Batch of each step from 0 to `steps - 1`, or the share of one of several processes in it.

    The shares of a step have clips of equal length, so that processes do not wait for each other.

    Args:
        steps: number of steps.
        schedule: curriculum.
        share: index of this process.
        shares: number of processes.
    """

    def __init__(self, steps: int, schedule: Schedule, share: int = 0, shares: int = 1) -> None:
        self.steps = steps
        self.schedule = schedule
        self.share = share
        self.shares = shares

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> ClipBatch:
        schedule = self.schedule
        size = schedule.image_size(step)
        common = np.random.default_rng(step)
        length = schedule.length(step, common)
        burn_in = schedule.burn_in(step, length, common)
        rng = np.random.default_rng((step, self.share))
        budget = schedule.frames * (2 if size < 256 else 1)
        images, masks, owner = [], [], []
        for c in range(max(1, budget // length)):
            frames, labels = _draw(
                seed=((step * self.shares + self.share) * 32 + c) % HELD_OUT_SEEDS,
                frames=length + burn_in,
                stride=schedule.stride(length, rng),
                level=schedule.level(step, rng),
                size=size,
            )
            images.append(_normalize(frames))
            for obj in range(1, labels[0].max() + 1):
                mask = labels == obj
                if mask[0].any():
                    masks.append(torch.from_numpy(mask))
                    owner.append(c)
        chosen = rng.permutation(len(masks))[: max(1, schedule.max_masks // length)]
        return ClipBatch(
            images=torch.stack(images),
            masks=torch.stack([masks[i] for i in chosen]),
            clip=torch.tensor([owner[i] for i in chosen]),
            burn_in=burn_in,
        )


def _draw(
    seed: int, frames: int, stride: int, level: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw every `stride`-th frame of a clip, `[T, S, S, 3]`, and its labels, `[T, S, S]`."""
    span = (frames - 1) * stride + 1
    # Oversample absences: in ordinary clips an object is absent on one frame in ten only.
    absences = 0.8 if frames > 2 else None
    scene = make_scene(seed, span, level=level, size=size, absences=absences)
    drawn = [scene.draw(t) for t in range(0, span, stride)]
    return np.stack([frame for frame, _ in drawn]), np.stack([labels for _, labels in drawn])


def _normalize(frames: np.ndarray) -> Tensor:
    """Convert uint8 `[T, S, S, 3]` to the model's input, float32 `[T, 3, S, S]`."""
    return normalize(torch.from_numpy(frames), IMAGE_MEAN, IMAGE_STD)
