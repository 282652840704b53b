"""Several MLPs, each of its own input, computed as batched products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.modeling.sam2_utils import MLP

__all__ = ["BatchedMLP"]


class BatchedMLP:
    """K MLPs of equal depth with ReLU; narrower ones are padded with zeros, which is exact.

    Args:
        mlps: modules whose weights it uses; their sigmoid is left to the caller.
    """

    def __init__(self, mlps: Sequence[MLP]) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        for layers in zip(*(mlp.layers for mlp in mlps), strict=True):
            width = [max(layer.weight.shape[dim] for layer in layers) for dim in (0, 1)]
            weights, biases = [], []
            for layer in layers:
                missing = [a - b for a, b in zip(width, layer.weight.shape, strict=True)]
                weights.append(F.pad(layer.weight, (0, missing[1], 0, missing[0])).T)
                biases.append(F.pad(layer.bias, (0, missing[0]))[None])
            self.layers.append((torch.stack(weights), torch.stack(biases)))

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> BatchedMLP | None:
        """Stack the weights of MLPs; None if they are not alike."""
        mlps = [module for module in modules if isinstance(module, MLP)]
        alike = {(len(mlp.layers), type(mlp.act), mlp.layers[0].in_features) for mlp in mlps}
        if len(mlps) != len(modules) or len(alike) != 1 or type(mlps[0].act) is not nn.ReLU:
            return None
        return cls(mlps)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs `[K, N, D]` of inputs `[K, N, C]`, D the largest output width."""
        *hidden, (weight, bias) = self.layers
        for first, second in hidden:
            x = torch.baddbmm(second, x, first).relu_()
        return torch.baddbmm(bias, x, weight)
