"""Several processes that train one model, each on its share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """This process and how many there are of it; alone unless `torchrun` has started it."""

    rank: int = 0
    count: int = 1

    @classmethod
    def started(cls) -> Processes:
        """The processes `torchrun` has started, now connected."""
        if not dist.is_torchelastic_launched():
            return cls()
        # It takes tensors of the CPU and of CUDA; NCCL takes no flags that lie on the CPU.
        dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give all processes the mean of their gradients; what has none in one counts as zero."""
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
        """Whether it is so in one of them."""
        if self.count == 1:
            return flag
        total = torch.tensor(float(flag))
        dist.all_reduce(total)
        return bool(total > 0)
