"""How a model runs, in one record."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from fastsam2.errors import ConfigError, DeviceError
from fastsam2_kernels.dispatch import Impl, uses_triton

__all__ = ["Plan"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How a predictor runs. But for `dtype`, nothing of it changes what is computed.

    Raises:
        ConfigError: a value that makes no sense.
    """

    dtype: torch.dtype = torch.float32  #: of the weights, and so of the computation
    #: kernels: "auto" takes Triton's on a GPU with tensor cores for them and PyTorch's elsewhere;
    #: "triton" and "reference" take those or fail
    impl: Impl = "auto"
    compile: bool = (
        False  #: the image encoder and the track step, by `torch.compile`: takes minutes
    )
    graphs: bool = False  #: both recorded as CUDA graphs, the step once for 1, 2, 4, 8... objects
    #: frames that the image encoder takes at once, ahead of the tracker and beside it; with 0 each
    #: frame is encoded when it is tracked
    encoder_batch: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {self.dtype}")
        if self.encoder_batch < 0:
            raise ConfigError(f"encoder_batch must not be negative, but is {self.encoder_batch}")

    @classmethod
    def exact(cls, device: torch.device) -> Plan:
        """In float32, at work without delay: what predictors do unless told otherwise."""
        return cls(encoder_batch=_ahead(device))

    @classmethod
    def auto(cls, device: torch.device) -> Plan:
        """The fastest that needs no compiler: half precision where the device is made for it."""
        if device.type == "cpu":
            return cls(dtype=torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32)
        on_device = torch.empty(0, device=device)
        if uses_triton("auto", on_device):
            return cls(torch.bfloat16, graphs=True, encoder_batch=_ahead(device))
        # bfloat16 is emulated before Ampere, and some backends do not know it.
        _LOG.info("no Triton kernels for %s: float16 with PyTorch's own attention", device)
        return cls(torch.float16, encoder_batch=_ahead(device))

    def check(self, device: torch.device) -> None:
        """Whether a model on `device` can run so.

        Raises:
            ConfigError: an unknown `impl`.
            DeviceError: the device cannot; the message says why.
        """
        try:
            uses_triton(self.impl, torch.empty(0, device=device))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        except RuntimeError as error:
            raise DeviceError(str(error)) from None
        if self.graphs and device.type != "cuda":
            raise DeviceError(f"graphs=True needs a CUDA device, not {device}")


def _ahead(device: torch.device) -> int:
    # On a CPU the encoder and the tracker would compete for the same cores.
    return 4 if device.type == "cuda" else 0


def _cpu_multiplies_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
