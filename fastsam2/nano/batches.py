"""Batches of synthetic clips, the same for the same step on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastsam2.data.preprocess import normalize_frame
from fastsam2.nano.objective import ClipBatch
from fastsam2.nano.synthetic import make_clip

__all__ = ["Batches", "Schedule"]

#: Seeds from here on are for evaluation.
HELD_OUT_SEEDS = 900_000


@dataclass(frozen=True)
class Schedule:
    """What is trained on when."""

    small_steps: int = 3000  #: steps at half the image size, four times as fast
    easy_steps: int = 12_000  #: steps until levels and lengths are mixed as they stay
    frames: int = 8  #: frames in a batch at full size; twice as many at half size
    max_objects: int = 20  #: objects in a batch

    def image_size(self, step: int) -> int:
        return 128 if step < self.small_steps else 256

    def length(self, step: int, rng: np.random.Generator) -> int:
        """Frames of each clip: stills and clips are mixed from the first step on."""
        late = min(1.0, step / max(self.easy_steps, 1))
        chances = np.array([0.4 - 0.25 * late, 0.3 - 0.15 * late, 0.2, 0.1 + 0.4 * late])
        return int(rng.choice([1, 2, 4, 8], p=chances / chances.sum()))

    def level(self, step: int, rng: np.random.Generator) -> int:
        easy = 0.8 - 0.6 * min(1.0, step / max(self.easy_steps, 1))
        return int(rng.choice([1, 2, 3], p=[easy, 0.75 * (1 - easy), 0.25 * (1 - easy)]))


class Batches(Dataset[ClipBatch]):
    """The batch of each step from 0 to `steps - 1`."""

    def __init__(self, steps: int, schedule: Schedule) -> None:
        self.steps = steps
        self.schedule = schedule

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> ClipBatch:
        rng = np.random.default_rng(step)
        schedule = self.schedule
        size = schedule.image_size(step)
        length = schedule.length(step, rng)
        budget = schedule.frames * (2 if size < 256 else 1)
        images, masks, owner = [], [], []
        for c in range(max(1, budget // length)):
            stride = int(rng.integers(1, 4)) if length > 1 else 1
            clip = make_clip(
                int((step * 32 + c) % HELD_OUT_SEEDS),
                (length - 1) * stride + 1,
                level=schedule.level(step, rng),
                size=size,
                # Oversampled: one frame in ten of ordinary clips would teach little of absence.
                absences=0.8 if length > 2 else None,
            )
            frames, labels = clip.frames[::stride], clip.labels[::stride]
            images.append(_normalised(frames))
            for obj in range(1, clip.objects + 1):
                mask = labels == obj
                if mask[0].any():
                    masks.append(torch.from_numpy(mask))
                    owner.append(c)
        chosen = rng.permutation(len(masks))[: schedule.max_objects]
        return ClipBatch(
            images=torch.stack(images),
            masks=torch.stack([masks[i] for i in chosen]),
            clip=torch.tensor([owner[i] for i in chosen]),
        )


def _normalised(frames: np.ndarray) -> Tensor:
    """uint8 `[T, S, S, 3]` to the model's input `[T, 3, S, S]`."""
    return torch.stack([normalize_frame(torch.from_numpy(f)) for f in frames])
