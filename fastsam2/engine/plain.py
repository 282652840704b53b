"""Whether a part of the model is still what was loaded, so that a shortcut may take its place."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["fingerprint", "is_plain"]


def is_plain(module: nn.Module) -> bool:
    """Whether calling `module` does no more than the package's own code with its weights.

    Not so where a part was replaced, wrapped, hooked, compiled or given another `forward`, in
    training, or where gradients are wanted: then the modules themselves must run.
    """
    if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
        return False
    return all(_is_own(part) for part in module.modules())


def _is_own(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind.__module__.startswith(("fastsam2.modeling.", "torch.nn.modules."))
        and not module.training
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and module._compiled_call_impl is None
    )


def fingerprint(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes when a weight is replaced, moved, cast, or written to."""
    return tuple(
        (p.data_ptr(), -1 if p.is_inference() else p._version) for p in module.parameters()
    )
