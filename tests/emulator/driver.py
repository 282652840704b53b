"""Triton driver of an emulated GPU: kernels are compiled to PTX and executed on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from fastsam2_kernels.launch_config import SHARED_MEMORY
from tests.emulator.machine import Launch, Program, run
from tests.emulator.memory import Argument
from tests.emulator.ptx import parse
from tests.emulator.tma import Descriptor

__all__ = ["Driver", "active"]

#: Arguments with which programs may race, by kernel, each with the reason why that is harmless.
RacingArguments = Mapping[str, Mapping[str, str]]


@functools.lru_cache(maxsize=128)
def _program(ptx: str) -> Program:
    return Program(parse(ptx))


class Driver(DriverBase):
    """Driver of a GPU of `capability`.

    Attributes:
        seed: of the order of programs and of atomics.
        edit: applied to the PTX of a kernel before a launch, by name and text.
        launches: names of the kernels that were launched.
    """

    def __init__(self, capability: int, racing: RacingArguments) -> None:
        self.capability = capability
        self.racing = racing
        self.seed = 0
        self.edit: Callable[[str, str], str] = lambda name, ptx: ptx
        self.launches: list[str] = []
        self.launcher_cls = _Launcher
        self.utils = self

    # Names are Triton's.

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # a JIT function has a cache for each device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("an emulator has no times")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY[self.capability]}

    def load_binary(
        self, name: str, kernel: bytes, shared: int, device: int
    ) -> tuple[None, tuple[str, str], int, int, int]:
        """Return module, function, registers, spills and maximum threads."""
        return None, (name, kernel.decode()), 0, 0, 1024


class _Launcher:
    """Launcher of a compiled kernel.

    Args:
        src: Triton's source, with the signature.
        metadata: of the compiled kernel.
    """

    def __init__(self, src: Any, metadata: Any) -> None:
        self.signature: dict[str, str] = src.signature
        self.metadata = metadata

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: int,
        function: tuple[str, str],
        packed_metadata: Any,
        launch_metadata: Any,
        enter_hook: Any,
        exit_hook: Any,
        *arguments: Any,
    ) -> None:
        driver: Driver = triton.runtime.driver.active
        program = _program(driver.edit(*function))
        if self.metadata.global_scratch_size:
            raise NotImplementedError("scratch memory")
        names = iter(program.kernel.parameters)
        parameters: list[np.ndarray] = []
        tensors: list[Argument] = []
        descriptors: list[Descriptor] = []
        layouts = iter(getattr(self.metadata, "tensordesc_meta", None) or ())
        for (name, kind), value in zip(self.signature.items(), arguments, strict=True):
            if kind == "constexpr":
                continue
            parameter = next(names)
            if kind[0] == "*":
                tensors.append(Argument(name, value, parameter.name in program.kernel.written))
                parameters.append(np.array([[value.data_ptr()]], np.uint64))
            elif kind.startswith("tensordesc"):
                tensors.append(Argument(name, value.base, parameter.name in program.kernel.written))
                parameters.append(np.array([[len(descriptors)]], np.uint64))
                descriptors.append(_descriptor(value, next(layouts)))
                for numbers, bits in ((value.shape, 32), (value.strides, 64)):
                    parameters += [_scalar(f"i{bits}", x) for x in numbers]
                    for _ in numbers:
                        next(names)
            else:
                parameters.append(_scalar(kind, value))
        # Pointers to scratch memory, which the kernel does not use.
        parameters += [np.zeros((1, 1), np.uint64) for _ in names]
        driver.launches.append(program.kernel.name)
        launch = Launch(
            (grid_x, grid_y, grid_z),
            parameters,
            tensors,
            descriptors,
            self.metadata.shared,
            driver.seed,
        )
        run(program, launch, driver.racing.get(program.kernel.name, {}))


def _scalar(kind: str, value: Any) -> np.ndarray:
    if kind in ("fp32", "fp64"):
        return np.array([[value]], f"f{int(kind[2:]) // 8}")
    bits = max(8, int(kind[1:]))
    return np.array([[int(value) & 2**bits - 1]], f"u{bits // 8}")


def _descriptor(value: Any, layout: Mapping[str, Any]) -> Descriptor:
    """Return the descriptor of a `TensorDescriptor`, with the tiles that the compiler chose."""
    return Descriptor(
        value.base.data_ptr(),
        layout["elem_size"],
        tuple(value.shape),
        tuple(value.strides),
        tuple(layout["block_size"]),
        (16, 32, 64, 128)[layout["swizzle"]],
    )


def _stages(backend: Any = None, stages: Any = None, *_: Any) -> tuple[str, str] | None:
    """Triton's hook of compiler stages: PTX in place of machine code, without ptxas."""
    if stages is None:
        return "emulator", "emulator"
    stages["cubin"] = lambda ptx, metadata: ptx.encode()
    return None


@contextmanager
def active(driver: Driver) -> Iterator[Driver]:
    """Make Triton launch kernels with `driver`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.driver, "_active", driver)
        patch.setattr(knobs.runtime, "add_stages_inspection_hook", _stages)
        yield driver
