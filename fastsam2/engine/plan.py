"""The execution plan of a model: dtype, kernels, compilation, CUDA graphs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

import torch

from fastsam2.errors import ConfigError, DeviceError
from fastsam2_kernels.dispatch import Impl, uses_triton

__all__ = ["STEADY_FRAMES", "Plan"]

_LOG = logging.getLogger(__name__)
STEADY_FRAMES = 8


@dataclass(frozen=True)
class Plan:
    """Execution plan of a predictor. Only `dtype` changes numerical results.

    Raises:
        ConfigError: `dtype` or `compile` is not supported, or `encoder_batch` is negative.
    """

    dtype: torch.dtype = torch.float32  #: of the weights and of the computation
    #: kernels: "auto" uses Triton kernels on GPUs with suitable tensor cores and PyTorch on other
    #: devices; "triton" and "reference" use the named one or fail
    impl: Impl = "auto"
    #: compile the image encoder and the track step with `torch.compile` at their first call, which
    #: takes minutes; "encoder" compiles the image encoder only, in the background, after the first
    #: frames
    compile: bool | Literal["encoder"] = False
    #: capture both as CUDA graphs, the step once for each of 1, 2, 3, 4, 6, 8, 12... objects;
    #: "steady" captures each after `STEADY_FRAMES` frames that could have used it
    graphs: bool | Literal["steady"] = False
    #: batch size of the image encoder, which runs ahead of the tracker and concurrently with it;
    #: with 0 each frame is encoded when it is tracked
    encoder_batch: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {self.dtype}")
        if self.compile not in (True, False, "encoder"):
            raise ConfigError(f'compile must be a bool or "encoder", not {self.compile!r}')
        if self.graphs not in (True, False, "steady"):
            raise ConfigError(f'graphs must be a bool or "steady", not {self.graphs!r}')
        if self.encoder_batch < 0:
            raise ConfigError(f"encoder_batch must not be negative, but is {self.encoder_batch}")

    @classmethod
    def eager(cls, device: torch.device) -> Plan:
        """Return the plan without compilation and CUDA graphs, in float32."""
        return cls(encoder_batch=_ahead(device))

    @classmethod
    def exact(cls, device: torch.device, impl: Impl = "auto") -> Plan:
        """Return the default plan of predictors: as `eager`, with CUDA graphs of steady frames
        where the kernels can be recorded."""
        records = device.type == "cuda" and impl != "reference"
        records = records and uses_triton("auto", torch.empty(0, device=device))
        return replace(cls.eager(device), impl=impl, graphs="steady" if records else False)

    @classmethod
    def auto(cls, device: torch.device) -> Plan:
        """Return the fastest plan without `torch.compile`: half precision if the device has it in
        hardware."""
        if device.type == "cpu":
            return cls(dtype=torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32)
        on_device = torch.empty(0, device=device)
        if uses_triton("auto", on_device):
            return cls(torch.bfloat16, graphs=True, encoder_batch=_ahead(device))
        # bfloat16 is emulated before Ampere, and some backends do not support it.
        _LOG.info("no Triton kernels for %s: float16 with PyTorch's own attention", device)
        return cls(torch.float16, encoder_batch=_ahead(device))

    def with_compiled_encoder(self) -> Plan:
        """Return a plan that compiles the image encoder, too."""
        return self if self.compile else replace(self, compile="encoder")

    def check(self, device: torch.device) -> None:
        """Check that a model on `device` can run by this plan.

        Raises:
            ConfigError: `impl` is unknown.
            DeviceError: `device` does not support the plan; the message says why.
        """
        try:
            uses_triton(self.impl, torch.empty(0, device=device))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        except RuntimeError as error:
            raise DeviceError(str(error)) from None
        if self.graphs and device.type != "cuda":
            raise DeviceError(f"graphs={self.graphs!r} needs a CUDA device, not {device}")


def _ahead(device: torch.device) -> int:
    # On a CPU the encoder and the tracker would compete for the same cores.
    return 4 if device.type == "cuda" else 0


def _cpu_multiplies_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
