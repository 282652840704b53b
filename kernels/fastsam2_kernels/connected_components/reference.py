"""Connected components in plain PyTorch: a union of horizontal runs.

Iteration over pixels would need as many steps as the longest path within a component. With runs as
nodes, hooking roots to smaller roots and compressing paths halves the number of open roots at least
every second round, for any shape.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["connected_components_reference"]


def connected_components_reference(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Specification of `op.connected_components`; same arguments and results."""
    shape = mask.shape
    n_images, height, width = shape[:-2].numel(), *shape[-2:]
    if mask.numel() == 0:
        empty = torch.zeros(shape, dtype=torch.int32, device=mask.device)
        return empty, empty.clone()
    # With a background pixel after each row and one at the start, starts and ends alternate.
    padded = F.pad((mask != 0).reshape(-1, width), (1, 0)).flatten()
    padded = F.pad(padded, (0, 1))
    changes = (padded[1:] != padded[:-1]).nonzero()[:, 0]
    start, end = changes[::2], changes[1::2]
    row = start // (width + 1)
    image = row // height
    length = end - start

    # An empty row separates images, as the extra pixel separates rows.
    above = _touching_runs(start + image * (width + 1), end + image * (width + 1), width + 1)
    root = _union(len(start), *above)

    is_root = root == torch.arange(len(root), device=root.device)
    per_image = torch.bincount(image[is_root], minlength=n_images)
    before = per_image.cumsum(0) - per_image
    label = is_root.cumsum(0)[root] - before[image]
    area = torch.zeros_like(length).scatter_add_(0, root, length)[root]

    # Without the padding: gap, run, gap, run, ..., gap.
    edges = torch.stack([start - row, end - row], 1).flatten()
    ends = edges.new_tensor([0, mask.numel()])
    lengths = torch.cat([ends[:1], edges, ends[1:]]).diff()
    segment = torch.repeat_interleave(lengths, output_size=mask.numel())

    def paint(value: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(len(lengths), dtype=torch.int32, device=mask.device)
        table[1::2] = value.to(torch.int32)
        return table.index_select(0, segment).view(shape)

    return paint(label), paint(area)


def _touching_runs(
    start: torch.Tensor, end: torch.Tensor, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pairs of runs in adjacent rows that share an edge or a corner, each pair once.

    Runs are sorted; `stride` is the distance between a pixel and the one below it.
    """
    # Runs above run i that overlap it, corners included, are consecutive.
    first = torch.searchsorted(end, start - stride)
    last = torch.searchsorted(start, end - stride, right=True)
    n = last - first
    lower = torch.repeat_interleave(n)
    before = n.cumsum(0) - n
    upper = torch.arange(len(lower), device=n.device) + (first - before)[lower]
    return upper, lower


def _union(n: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the smallest node connected to each of the nodes 0..n-1 by the edges (a, b)."""
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
