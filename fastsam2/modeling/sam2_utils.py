"""Shared building blocks: MLP, channel norm, sine encoding, choice of conditioning frames."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsam2.modeling.cached_tensor import CachedTensor, is_traced
from fastsam2.modeling.click_sampling import (
    get_next_point,
    sample_box_points,
    sample_one_point_from_error_center,
    sample_random_points_from_errors,
)

__all__ = [
    "MLP",
    "DropPath",
    "LayerNorm2d",
    "at_least_float32",
    "get_1d_sine_pe",
    "get_activation_fn",
    "get_clones",
    "get_next_point",
    "sample_box_points",
    "sample_one_point_from_error_center",
    "sample_random_points_from_errors",
    "select_closest_cond_frames",
    "without_overlap",
]

T = TypeVar("T")

_periods: CachedTensor[Tensor] = CachedTensor()  # of `get_1d_sine_pe`


def at_least_float32(x: Tensor) -> Tensor:
    """Convert `x` to float32 unless it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def select_closest_cond_frames(
    frame_idx: int, cond_frame_outputs: Mapping[int, T], max_cond_frame_num: int
) -> tuple[dict[int, T], dict[int, T]]:
    """Split conditioning frames into those to attend to and the rest.

    Selects the nearest frame before `frame_idx`, the nearest at or after it, then the nearest of
    the others, up to `max_cond_frame_num` (-1 for all).

    Returns:
        The selected and the unselected items.

    Raises:
        ValueError: `max_cond_frame_num` is 0 or 1 and there are more frames than that.
    """
    if max_cond_frame_num == -1 or len(cond_frame_outputs) <= max_cond_frame_num:
        return dict(cond_frame_outputs), {}
    if max_cond_frame_num < 2:
        raise ValueError(f"max_cond_frame_num must be -1 or at least 2, not {max_cond_frame_num}")
    before = [t for t in cond_frame_outputs if t < frame_idx]
    after = [t for t in cond_frame_outputs if t >= frame_idx]
    chosen = [max(before)] if before else []
    if after:
        chosen.append(min(after))
    # The sort is stable: of two equally distant frames the one added first is selected.
    others = sorted(
        (t for t in cond_frame_outputs if t not in chosen), key=lambda t: abs(t - frame_idx)
    )
    chosen += others[: max_cond_frame_num - len(chosen)]
    selected = {t: cond_frame_outputs[t] for t in chosen}
    return selected, {t: v for t, v in cond_frame_outputs.items() if t not in selected}


def get_1d_sine_pe(pos_inds: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """Encode scalar positions `[...]` as sines, then cosines: float32 `[..., dim]`."""
    half, device = dim // 2, pos_inds.device

    def periods() -> Tensor:
        channel = torch.arange(half, dtype=torch.float32, device=device)
        return temperature ** (2 * (channel // 2) / half)

    # A compiler computes them once, but would compile again when the cache changes.
    period = periods() if is_traced() else _periods((half, temperature, device), (), periods)
    phase = pos_inds.unsqueeze(-1) / period
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def get_clones(module: nn.Module, N: int) -> nn.ModuleList:
    """Return N copies of a module."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(N))


def get_activation_fn(activation: str) -> Callable[[Tensor], Tensor]:
    """Return the activation called `relu`, `gelu` or `glu`.

    Raises:
        RuntimeError: another name, as in `sam2`.
    """
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": F.relu,
        "gelu": F.gelu,
        "glu": F.glu,
    }
    if activation not in activations:
        raise RuntimeError(f"activation must be relu, gelu or glu, not {activation!r}")
    return activations[activation]


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the whole residual of a sample."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep if keep > 0.0 else mask)


class MLP(nn.Module):
    """Linear layers with an activation between them, and optionally a sigmoid at the end."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: type[nn.Module] = nn.ReLU,
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))
        self.sigmoid_output = sigmoid_output
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.act(layer(x))
        x = last(x)
        return x.sigmoid() if self.sigmoid_output else x


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of `[B, C, H, W]`."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def without_overlap(masks: Tensor) -> Tensor:
    """Keep each pixel of logits `[B, 1, H, W]` only for the object with the highest logit; clamp
    those of the others to at most -10."""
    if len(masks) <= 1:
        return masks
    rows = torch.arange(len(masks), device=masks.device)[:, None, None, None]
    keep = masks.argmax(dim=0, keepdim=True) == rows
    return torch.where(keep, masks, masks.clamp(max=-10.0))
