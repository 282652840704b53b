"""How tensor functions run: precision, compilation, CUDA graphs, streams, host copies."""

from __future__ import annotations
