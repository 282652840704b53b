"""What a model computes in where its caller says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from fastsam2.engine.fused.fast_path import FastPath
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.modeling.sam2_base import SAM2Base

__all__ = ["in_callers_precision"]

M = TypeVar("M", bound=SAM2Base)
P = ParamSpec("P")
T = TypeVar("T")


def in_callers_precision(
    function: Callable[Concatenate[M, P], T],
) -> Callable[Concatenate[M, P], T]:
    """`function` of a model, which under autocast gets a copy of the model in the caller's dtype.

    So a model in float32 costs what one in half precision costs, where `sam2` is used as it is
    meant to be used. Where parts that are not the package's own must run, autocast is left to them.
    """

    @wraps(function)
    def run(model: M, /, *args: P.args, **kwargs: P.kwargs) -> T:
        device = model.device
        kind = device.type
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return function(model, *args, **kwargs)
        dtype = torch.get_autocast_dtype(kind)
        # What is in that dtype already needs no copy.
        twin = (_is_plain(model) and model) if model.dtype == dtype else _copies(dtype)(model)
        if not twin:
            return function(model, *args, **kwargs)
        # Options are read at each call, and may have been changed since the last one.
        options = {k: v for k, v in vars(model).items() if k not in ("_modules", "_parameters")}
        vars(twin).update(options)
        with without_autocast(device):
            return function(cast(M, twin), *args, **kwargs)

    return run


#: All that runs while tracking.
_PARTS = (
    "image_encoder",
    "memory_attention",
    "memory_encoder",
    "sam_prompt_encoder",
    "sam_mask_decoder",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
)


_is_plain = FastPath(_PARTS, lambda model: True)


@cache
def _copies(dtype: torch.dtype) -> FastPath[SAM2Base]:
    def own(model: SAM2Base) -> list[Tensor | None]:
        return list(model._parameters.values())

    return FastPath(_PARTS, lambda model: _in(dtype, model), own)


def _in(dtype: torch.dtype, model: SAM2Base) -> SAM2Base:
    """A copy with weights of `dtype`, and buffers as they are: coordinates need float32."""
    twin = copy.copy(model)
    twin._modules = copy.deepcopy(model._modules)
    twin._parameters = {
        name: None if weight is None else nn.Parameter(weight.clone(), weight.requires_grad)
        for name, weight in model._parameters.items()
    }
    for weight in twin.parameters():
        weight.data = weight.data.to(dtype)
    return twin
