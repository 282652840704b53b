"""A linear layer with ReLU in the epilogue of its product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

__all__ = ["linear_relu", "mlp"]


def linear_relu(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return `relu(layer(x))`; it has no derivative."""
    rows = x.flatten(0, -2)
    out = torch._addmm_activation(layer.bias, rows, layer.weight.T)
    return out.view(*x.shape[:-1], layer.out_features)


def mlp(x: Tensor, layers: nn.ModuleList) -> Tensor:
    """Apply linear layers with ReLU between them."""
    *hidden, last = layers
    for layer in hidden:
        x = linear_relu(x, layer)  # type: ignore[arg-type]
    return last(x)


@register_flop_formula(torch.ops.aten._addmm_activation)
def _flops(bias: Any, rows: Any, weight: Any, *_: Any, **_options: Any) -> int:
    return 2 * rows[0] * rows[1] * weight[1]
