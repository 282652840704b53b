"""Data-parallel training: each process handles a share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """Rank of this process and number of processes; a single one unless started by `torchrun`."""

    rank: int = 0
    count: int = 1

    @classmethod
    def started(cls) -> Processes:
        """Connect the processes started by `torchrun`; otherwise return a single process."""
        if not dist.is_torchelastic_launched():
            return cls()
        # Gloo supports CPU and CUDA tensors; NCCL does not support the flags on the CPU.
        dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over all processes; a missing gradient counts as zero."""
        if self.count == 1:
            return
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
        mean = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(mean)
        mean /= self.count
        parts = mean.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def any(self, flag: bool) -> bool:
        """True if `flag` is set in any process."""
        if self.count == 1:
            return flag
        total = torch.tensor(float(flag))
        dist.all_reduce(total)
        return bool(total > 0)
