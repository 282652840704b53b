"""Execution of tensor functions: precision, compilation, CUDA graphs, streams, host copies."""

from __future__ import annotations
