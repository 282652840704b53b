"""Processes that train together stay in step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from training.nano.processes import Processes


def join(rank: int, folder: Path) -> None:
    """Body of one of two processes, with the environment of `torchrun`."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="test")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=(folder / "port").read_text())
    processes = Processes.started()
    weights = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]
    weights[0].grad = torch.full((2, 3), float(rank))
    if rank == 0:
        weights[1].grad = torch.arange(4.0)
    processes.average_gradients(weights)
    found = {
        "processes": processes,
        "gradients": [weight.grad for weight in weights],
        "one": processes.any(rank == 1),
        "none": processes.any(False),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_averaged(tmp_path: Path) -> None:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    (tmp_path / "port").write_text(str(store.port))
    del store
    spawn(join, (tmp_path,), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert found["processes"] == Processes(rank, 2)
        torch.testing.assert_close(
            found["gradients"], [torch.full((2, 3), 0.5), torch.arange(4.0) / 2]
        )
        assert found["one"]
        assert not found["none"]


def test_one_process_keeps_its_gradients() -> None:
    weight = nn.Parameter(torch.zeros(2))
    alone = Processes.started()
    alone.average_gradients([weight])
    assert weight.grad is None
    assert alone == Processes()
    assert alone.any(True)
    assert not alone.any(False)
