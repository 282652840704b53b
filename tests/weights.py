"""Random weights with which every part of a model affects its output."""

from __future__ import annotations

import torch
from torch import nn


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Randomise every parameter and buffer, so that no part is zero, unit or tiny.

    The object score is biased up: a model that scores every object absent returns a constant mask,
    which would agree with anything.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("gamma"):
                tensor.copy_(0.5 + 0.2 * draw(tensor))
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1.0 + 0.2 * draw(tensor))
            elif name.endswith("bias"):
                tensor.copy_(0.1 * draw(tensor))
            elif name.endswith("positional_encoding_gaussian_matrix"):
                tensor.copy_(draw(tensor))
            elif tensor.ndim == 4 and "pos_embed" in name:
                tensor.copy_(0.3 * draw(tensor))
            elif tensor.ndim >= 2 and name.endswith("weight") and tensor.shape[0] > 1:
                transposed = "output_upscaling" in name
                fan_in = tensor.shape[0] if transposed else tensor[0].numel()
                tensor.copy_(draw(tensor) * (1.2 / fan_in**0.5))
            else:
                tensor.copy_(0.5 * draw(tensor))
        head = getattr(model.sam_mask_decoder, "pred_obj_score_head", None)
        if head is not None:
            last = head.layers[-1] if hasattr(head, "layers") else head
            last.weight.mul_(0.3)
            last.bias.fill_(6.0)
    return model
