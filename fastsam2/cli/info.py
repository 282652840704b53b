"""`fastsam2 info`: print versions, devices and backends."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
import typer

import fastsam2

__all__ = ["describe", "info"]

_PACKAGES = ("torch", "triton", "av", "numpy", "pillow")


def info() -> None:
    """Print the description."""
    typer.echo(describe())


def describe() -> str:
    """Return versions, devices and backends, one per line."""
    rows = [("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    rows.append(("fastsam2", fastsam2.__version__))
    rows += [(name, _version(name)) for name in _PACKAGES]
    rows += _devices()
    rows.append(("default", "cuda" if torch.cuda.is_available() else "cpu"))
    rows.append(("kernels", _kernels()))
    return "\n".join(f"{name:9} {value}" for name, value in rows)


def _version(package: str) -> str:
    if package == "torch":
        return torch.__version__  # names the build, too
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    rows = [("cpu", f"{torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = device.total_memory / 2**30
        capability = f"compute capability {device.major}.{device.minor}"
        rows.append((f"cuda:{index}", f"{device.name}, {memory:.0f} GiB, {capability}"))
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = (
            f"no device found (PyTorch is built for CUDA {built})"
            if built
            else "not available (PyTorch is built without CUDA)"
        )
        rows.append(("cuda", reason))
    return rows


def _kernels() -> str:
    if torch.cuda.is_available() and _version("triton") != "not installed":
        return "Triton on CUDA, PyTorch on CPU"
    return "PyTorch (the Triton kernels need an NVIDIA GPU and the triton package)"
