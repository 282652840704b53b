"""Launches that are compiled ahead of time: each describes its kernel completely."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import fastsam2_kernels
from fastsam2_kernels.dispatch import has_gluon
from fastsam2_kernels.launch_config import CAPABILITIES

pytest.importorskip("triton")
OPS = [folder.name for folder in pkgutil.iter_modules(fastsam2_kernels.__path__) if folder.ispkg]
MODULES = [f"{op}.kernel" for op in OPS]
if has_gluon():
    MODULES.append("memory_attention.gluon_kernel")


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("module", MODULES)
def test_variants_name_every_argument(module: str, capability: int) -> None:
    found = importlib.import_module(f"fastsam2_kernels.{module}").variants(capability)
    for variant in found:
        assert variant.op == module.partition(".")[0]
        assert {*variant.signature, *variant.constants} == set(variant.kernel.arg_names)
        assert {*(variant.aligned or ())} <= {*variant.signature}
    launches = {
        (v.kernel.__name__, v.label): (v.signature, v.constants, v.num_warps, v.num_stages)
        for v in found
    }
    for v in found:
        launch = v.signature, v.constants, v.num_warps, v.num_stages
        assert launches[v.kernel.__name__, v.label] == launch, "one label names two launches"
