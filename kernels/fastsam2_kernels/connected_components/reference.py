"""Connected components in plain PyTorch: a union of horizontal runs.

A snake that crosses the image is a chain of pixels, along which labels spread one pixel a step.
Taking runs for nodes, hooking roots to smaller roots and compressing the paths halves the number of
open roots at least every second round, whatever the shape.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["connected_components_reference"]


def connected_components_reference(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The specification of `op.connected_components`; same arguments and results."""
    fg_nhw = (mask != 0).reshape(-1, *mask.shape[-2:]) if mask.numel() else mask.new_zeros(0, 1, 1)
    starts = fg_nhw & ~F.pad(fg_nhw, (1, 0))[..., :-1]
    n_runs = int(starts.sum())
    if n_runs == 0:
        empty = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device)
        return empty, empty.clone()

    # Runs are counted over all rows of all images; the index means nothing in the background.
    run_nhw = starts.flatten().cumsum(0).view_as(fg_nhw) - 1
    root = _union(n_runs, *_touching_runs(fg_nhw, run_nhw))

    n_images = fg_nhw.shape[0]
    image = starts.nonzero()[:, 0]
    is_root = root == torch.arange(n_runs, device=root.device)
    per_image = torch.bincount(image[is_root], minlength=n_images)
    before = per_image.cumsum(0) - per_image
    label = is_root.cumsum(0)[root] - before[image]

    length = torch.bincount(run_nhw[fg_nhw], minlength=n_runs)
    area = torch.zeros_like(length).scatter_add_(0, root, length)[root]

    def paint(value: torch.Tensor) -> torch.Tensor:
        return (value.to(torch.int32)[run_nhw.clamp_min(0)] * fg_nhw).view(mask.shape)

    return paint(label), paint(area)


def _touching_runs(
    fg_nhw: torch.Tensor, run_nhw: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of runs of neighbouring rows that share an edge or a corner, each pair once."""
    up, down = fg_nhw[:, :-1], fg_nhw[:, 1:]
    run_up, run_down = run_nhw[:, :-1], run_nhw[:, 1:]
    both = up & down
    edge = both & ~F.pad(both, (1, 0))[..., :-1]
    # A corner counts only where neither run reaches below or above the other.
    left, right = slice(None, -1), slice(1, None)
    uppers, lowers = [run_up[edge]], [run_down[edge]]
    for a, b in ((left, right), (right, left)):
        corner = up[..., a] & down[..., b] & ~up[..., b] & ~down[..., a]
        uppers.append(run_up[..., a][corner])
        lowers.append(run_down[..., b][corner])
    return torch.cat(uppers), torch.cat(lowers)


def _union(n: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The smallest node connected to each of the nodes 0..n-1 by the edges (a, b)."""
    root = torch.arange(n, device=a.device)
    while True:
        a, b = root[a], root[b]
        is_open = a != b
        if not is_open.any():
            return root
        a, b = a[is_open], b[is_open]
        root.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(parent := root[root], root):
            root = parent
