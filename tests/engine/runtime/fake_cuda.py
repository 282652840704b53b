"""CUDA streams, graphs and cuBLAS workspaces as PyTorch keeps them, without a GPU.

Pools, their use counts and workspaces follow `CUDACachingAllocator.cpp`, `CUDAGraph.cpp` and
`CublasHandlePool.cpp` of PyTorch 2.11 and 2.13.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

__all__ = ["FakeCuda"]

_IDS = count(1)


class Stream:
    def __init__(self, cuda: FakeCuda, device: Any = None) -> None:
        index = cuda.device if device is None else torch.device(device).index or 0
        self.device = torch.device("cuda", index)
        self.number = next(_IDS)

    def record_event(self) -> Any:
        return SimpleNamespace(query=lambda: True, synchronize=lambda: None)

    def wait_event(self, event: Any) -> None:
        pass


@dataclass
class Workspace:
    """Memory of cuBLAS for one thread and stream."""

    pool: int | None  #: the graph pool that it was allocated in
    allocated: bool = True


@dataclass
class FakeCuda:
    """State of a process that uses CUDA.

    Args:
        clears: destroying a graph clears the workspaces of its stream, as from PyTorch 2.13 on.
    """

    clears: bool = True
    device: int = 0
    fails: bool = False  #: captures fail at their end
    pools: dict[int, int] = field(default_factory=dict)  #: use count of each graph pool
    workspaces: dict[tuple[int, int], Workspace] = field(default_factory=dict)
    used: dict[int, list[Workspace]] = field(default_factory=dict)  #: by the graphs of a pool
    captured_on: list[torch.device] = field(default_factory=list)
    capturing: int | None = None
    _current: dict[int, Stream] = field(default_factory=dict)

    def current_stream(self, device: Any = None) -> Stream:
        index = self.device if device is None else torch.device(device).index or 0
        return self._current.setdefault(index, Stream(self, f"cuda:{index}"))

    def matmul(self) -> None:
        """Do what every product does: find or allocate the workspace of its thread and stream."""
        key = threading.get_ident(), self.current_stream().number
        space = self.workspaces.setdefault(key, Workspace(self.capturing))
        if self.capturing is not None:
            self.used.setdefault(self.capturing, []).append(space)

    def clear_workspaces(self) -> None:
        self.workspaces.clear()

    def empty_cache(self) -> None:
        """Free the pools that no graph uses, with the workspaces in them."""
        for pool in [pool for pool, uses in self.pools.items() if not uses]:
            for spaces in [*self.used.values(), list(self.workspaces.values())]:
                for space in spaces:
                    space.allocated &= space.pool != pool
            del self.pools[pool]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        cuda = self

        class StreamContext:
            def __init__(self, stream: Stream) -> None:
                self.stream = stream

            def __enter__(self) -> None:
                self.before = cuda.device, cuda.current_stream(self.stream.device)
                cuda.device = self.stream.device.index
                cuda._current[cuda.device] = self.stream

            def __exit__(self, *error: object) -> None:
                index = cuda.device
                cuda.device = self.before[0]
                cuda._current[index] = self.before[1]

        class DeviceContext:
            def __init__(self, device: Any) -> None:
                self.index = torch.device(device).index

            def __enter__(self) -> None:
                self.before, cuda.device = cuda.device, self.index

            def __exit__(self, *error: object) -> None:
                cuda.device = self.before

        class Graph:
            def capture_begin(self, pool: int | None = None, capture_error_mode: str = "") -> None:
                assert pool is None or cuda.pools.get(pool, 1) > 0, "use_count > 0 INTERNAL ASSERT"
                self.id = pool or next(_IDS)
                self.stream = cuda.current_stream()
                cuda.pools[self.id] = cuda.pools.get(self.id, 0) + 1
                cuda.captured_on.append(self.stream.device)
                cuda.capturing = self.id

            def capture_end(self) -> None:
                cuda.capturing = None
                if cuda.fails:
                    raise RuntimeError("operation failed due to a previous error during capture")

            def pool(self) -> int:
                return self.id

            def replay(self) -> None:
                pass

            def __del__(self) -> None:
                if cuda.clears:
                    for key in [k for k in cuda.workspaces if k[1] == self.stream.number]:
                        cuda.workspaces.pop(key).allocated = False
                cuda.pools[self.id] -= 1

        class Capture:
            """As `torch.cuda.graph`."""

            def __init__(
                self, graph: Graph, pool: Any, stream: Stream, capture_error_mode: str
            ) -> None:
                self.graph, self.pool, self.context = graph, pool, StreamContext(stream)

            def __enter__(self) -> None:
                cuda.empty_cache()
                self.context.__enter__()
                self.graph.capture_begin(self.pool)

            def __exit__(self, *error: object) -> None:
                self.graph.capture_end()
                self.context.__exit__(*error)

        for name, value in {
            "Stream": lambda device=None: Stream(cuda, device),
            "stream": StreamContext,
            "device": DeviceContext,
            "current_stream": self.current_stream,
            "CUDAGraph": Graph,
            "graph": Capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(
            torch._C, "_cuda_clearCublasWorkspaces", self.clear_workspaces, raising=False
        )
        return self
