"""Triton kernels of connected components: union-find over 2x2 blocks of pixels.

Each image has a forest in one int32 per pixel: `parent[p]` is the index in its image of a
foreground pixel of the same component, -1 in the background. All foreground pixels of a 2x2 block
touch, so `start` gives them one parent, and `join` need only join blocks. A root points at itself;
a join always hangs the larger root under the smaller, so in the end the root of a component is its
first pixel in raster order, in any order of the threads. So the labels are deterministic:
only the shape of the trees depends on timing, and `settle` flattens them.

Triton's interpreter runs programs one after the other, so it does not test concurrency (the tests
interleave programs there, which samples orders but proves nothing). Joining is correct and ends
while other threads join, because:

- Parents change only by `atomic_min`, so `parent[p] <= p` always holds and no cycle can form.
- A pair is joined by `old = atomic_min(parent[hi], lo)`. If `old == hi`, `hi` was a root and now
  hangs under `lo`: done. Otherwise another thread had hung `hi` under `old`; the smaller of the
  two is now its parent, and the link to the other may have been overwritten, so this thread
  continues with the pair (`old`, `lo`). At every moment, links and pending pairs together connect
  the same pixels as before, and no pair is dropped before it is linked.
- Both members of the new pair are smaller than `hi`, so a thread needs finitely many rounds. It
  waits for no other thread: there is no lock, so no deadlock, even if warps progress unevenly.
- A walk to the root reads `parent` without ordering and may see old values. An old parent was
  stored by the same rule and is still connected to the pixel by links and pending pairs. Indices
  strictly decrease along a walk until a pixel pointed at itself when it was read; if that is no
  longer a root, the `old` that `atomic_min` returns shows it.
- Kernels run one after the other, so `settle` starts from complete trees. It replaces parents by
  roots while other threads walk; a walk sees either, and both lead to the same root.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsam2_kernels.aot import Variant
from fastsam2_kernels.connected_components.tuning import Launch, choose

__all__ = ["launch", "variants"]


@triton.jit
def _segmented_min(b_starts_a, b_a, b_starts_b, b_b):
    return b_starts_a | b_starts_b, tl.where(b_starts_b != 0, b_b, tl.minimum(b_a, b_b))


@triton.jit
def start_kernel(
    p_mask,  # [N, H, W] uint8
    p_parent,  # [N, H, W] int32
    p_area,  # [N, H, W] int32
    H,
    W,
    n_tiles,  # programs for each image
    BLOCK: tl.constexpr,
):
    """Point each pixel at the first pixel of its run of touching blocks in a row; clear areas."""
    pid = tl.program_id(0)
    i_image = (pid // n_tiles).to(tl.int64) * H * W
    p_m, p_p, p_a = p_mask + i_image, p_parent + i_image, p_area + i_image
    # [B]
    o_b = (pid % n_tiles) * BLOCK + tl.arange(0, BLOCK)
    W_b = (W + 1) // 2
    y, x = o_b // W_b * 2, o_b % W_b * 2
    o_p = y * W + x
    m_0 = y < H
    m_1, m_2, m_west = m_0 & (x + 1 < W), m_0 & (y + 1 < H), m_0 & (x > 0)
    m_3 = m_1 & m_2
    # A block is p0 p1 over p2 p3; its left neighbours are w0 over w2.
    b_p0 = tl.load(p_m + o_p, mask=m_0, other=0) != 0
    b_p1 = tl.load(p_m + o_p + 1, mask=m_1, other=0) != 0
    b_p2 = tl.load(p_m + o_p + W, mask=m_2, other=0) != 0
    b_p3 = tl.load(p_m + o_p + W + 1, mask=m_3, other=0) != 0
    b_w0 = tl.load(p_m + o_p - 1, mask=m_west, other=0) != 0
    b_w2 = tl.load(p_m + o_p + W - 1, mask=m_west & m_2, other=0) != 0
    # [B]
    b_first = tl.where(b_p3, o_p + W + 1, 2147483647)
    b_first = tl.where(b_p2, o_p + W, b_first)
    b_first = tl.where(b_p1, o_p + 1, b_first)
    b_first = tl.where(b_p0, o_p, b_first)
    b_starts = 1 - ((b_p0 | b_p2) & (b_w0 | b_w2)).to(tl.int32)
    _, b_parent = tl.associative_scan((b_starts, b_first), 0, _segmented_min)
    # Only the first pixel of a block can become a root, and only roots have an area.
    tl.store(p_a + b_first, tl.zeros((BLOCK,), tl.int32), mask=b_p0 | b_p1 | b_p2 | b_p3)
    tl.store(p_p + o_p, tl.where(b_p0, b_parent, -1), mask=m_0)
    tl.store(p_p + o_p + 1, tl.where(b_p1, b_parent, -1), mask=m_1)
    tl.store(p_p + o_p + W, tl.where(b_p2, b_parent, -1), mask=m_2)
    tl.store(p_p + o_p + W + 1, tl.where(b_p3, b_parent, -1), mask=m_3)


@triton.jit
def _root(p_parent, b_node, m_node):
    """Return the root of each node where `m_node`; `p_parent` points at the node's image."""
    # [B]
    b_parent = tl.load(p_parent + b_node, mask=m_node, other=0, cache_modifier=".cg")
    m_walk = m_node & (b_parent != b_node)
    while tl.max(m_walk.to(tl.int32), axis=0) > 0:
        b_node = tl.where(m_walk, b_parent, b_node)
        b_parent = tl.load(p_parent + b_node, mask=m_walk, other=0, cache_modifier=".cg")
        m_walk = m_walk & (b_parent != b_node)
    return b_node


@triton.jit
def _join(p_parent, b_a, b_b, m_open):
    """Join the pairs (a, b) where `m_open` in the forest of their image."""
    # [B]
    b_a = _root(p_parent, b_a, m_open)
    b_b = _root(p_parent, b_b, m_open)
    m_open = m_open & (b_a != b_b)
    while tl.max(m_open.to(tl.int32), axis=0) > 0:
        b_hi, b_lo = tl.maximum(b_a, b_b), tl.minimum(b_a, b_b)
        b_old = tl.atomic_min(p_parent + b_hi, b_lo, mask=m_open, sem="relaxed")
        m_open = m_open & (b_old != b_hi) & (b_old != b_lo)
        b_a = _root(p_parent, tl.where(m_open, b_old, b_a), m_open)
        b_b = _root(p_parent, tl.where(m_open, b_lo, b_b), m_open)
        m_open = m_open & (b_a != b_b)


@triton.jit
def join_kernel(
    p_parent,  # [N, H, W] int32
    H,
    W,
    n_tiles,  # programs for each image
    BLOCK: tl.constexpr,
):
    """Join each 2x2 block with the blocks to its left and above that it touches."""
    pid = tl.program_id(0)
    p_image = p_parent + (pid // n_tiles).to(tl.int64) * H * W
    # [B]
    o_b = (pid % n_tiles) * BLOCK + tl.arange(0, BLOCK)
    W_b = (W + 1) // 2
    y, x = o_b // W_b * 2, o_b % W_b * 2
    m_b = y < H
    o_p = y * W + x
    m_right, m_below = m_b & (x + 1 < W), m_b & (y + 1 < H)
    m_left, m_above = m_b & (x > 0), m_b & (y > 0)
    # Parents, -1 in the background: the block's own pixels, then the ring around it.
    #   nw n0 n1 ne
    #   w0 p0 p1
    #   w1 p2
    b_p0 = tl.load(p_image + o_p, mask=m_b, other=-1)
    b_p1 = tl.load(p_image + o_p + 1, mask=m_right, other=-1)
    b_p2 = tl.load(p_image + o_p + W, mask=m_below, other=-1)
    b_w0 = tl.load(p_image + o_p - 1, mask=m_left, other=-1)
    b_w1 = tl.load(p_image + o_p + W - 1, mask=m_left & m_below, other=-1)
    b_nw = tl.load(p_image + o_p - W - 1, mask=m_left & m_above, other=-1)
    b_n0 = tl.load(p_image + o_p - W, mask=m_above, other=-1)
    b_n1 = tl.load(p_image + o_p - W + 1, mask=m_above & m_right, other=-1)
    b_ne = tl.load(p_image + o_p - W + 2, mask=m_above & (x + 2 < W), other=-1)

    # Any parent represents the block; -1 is the smallest, so the maximum is in the foreground.
    b_top = tl.maximum(b_p0, b_p1)
    b_side = tl.maximum(b_p0, b_p2)
    b_west = tl.maximum(b_w0, b_w1)
    b_north = tl.maximum(b_n0, b_n1)
    # Blocks that `start` has joined mostly have the same parent.
    _join(p_image, b_side, b_west, (b_side >= 0) & (b_west >= 0) & (b_side != b_west))
    _join(p_image, b_top, b_north, (b_top >= 0) & (b_north >= 0))
    # A corner that is also connected through the block above is joined already.
    _join(p_image, b_p0, b_nw, (b_p0 >= 0) & (b_nw >= 0) & (b_n0 < 0))
    _join(p_image, b_p1, b_ne, (b_p1 >= 0) & (b_ne >= 0) & (b_n1 < 0))


@triton.jit
def settle_kernel(
    p_parent,  # [N, H, W] int32, in and out
    p_area,  # [N, H, W] int32, at roots: zero in, number of pixels out
    p_is_root,  # [N, H, W] uint8 out
    H,
    W,
    n_tiles,  # programs for each image
    BLOCK: tl.constexpr,
):
    """Point each pixel at its root and count the pixels of each root."""
    pid = tl.program_id(0)
    i_image = (pid // n_tiles).to(tl.int64) * H * W
    # [B]
    o_p = (pid % n_tiles) * BLOCK + tl.arange(0, BLOCK)
    m_p = o_p < H * W
    b_parent = tl.load(p_parent + i_image + o_p, mask=m_p, other=-1)
    m_fg = b_parent >= 0
    b_root = _root(p_parent + i_image, b_parent, m_fg)
    tl.store(p_parent + i_image + o_p, b_root, mask=m_fg)
    tl.store(p_is_root + i_image + o_p, (m_fg & (b_root == o_p)).to(tl.uint8), mask=m_p)
    # Most programs see one component: add its pixels at once, not one by one.
    b_lowest = tl.min(tl.where(m_fg, b_root, H * W), axis=0)
    m_lowest = m_fg & (b_root == b_lowest)
    n_lowest = tl.sum(m_lowest.to(tl.int32), axis=0)
    tl.atomic_add(p_area + i_image + b_lowest, n_lowest, mask=n_lowest > 0, sem="relaxed")
    b_ones = tl.full((BLOCK,), 1, tl.int32)
    m_others = m_fg & (b_root != b_lowest)
    tl.atomic_add(p_area + i_image + b_root, b_ones, mask=m_others, sem="relaxed")


@triton.jit
def paint_kernel(
    p_rank,  # [N, H, W] int32: number of roots up to and including each pixel
    p_labels,  # [N, H, W] int32: roots in, labels out
    p_areas,  # [N, H, W] int32: at roots in, everywhere out
    H,
    W,
    n_tiles,  # programs for each image
    BLOCK: tl.constexpr,
):
    """Give each pixel the number and the area of its root, in place.

    Areas are read at roots only, and a root is overwritten by its own value.
    """
    pid = tl.program_id(0)
    i_image = (pid // n_tiles).to(tl.int64) * H * W
    # [B]
    o_p = (pid % n_tiles) * BLOCK + tl.arange(0, BLOCK)
    m_p = o_p < H * W
    b_root = tl.load(p_labels + i_image + o_p, mask=m_p, other=-1)
    m_fg = b_root >= 0
    b_label = tl.load(p_rank + i_image + b_root, mask=m_fg, other=0)
    b_area = tl.load(p_areas + i_image + b_root, mask=m_fg, other=0)
    tl.store(p_labels + i_image + o_p, b_label, mask=m_p)
    tl.store(p_areas + i_image + o_p, b_area, mask=m_p)


def launch(
    mask: Tensor, *, params: Launch | None = None, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Run the kernels on a mask of `op.connected_components` that has been checked.

    Never waits for the device.

    Args:
        params: launch parameters; None for the tuned ones.
        out: contiguous labels and areas, to be written; None allocates them.
    """
    params = choose(mask.device) if params is None else params
    # One byte per pixel, non-zero in the foreground.
    mask = (mask if mask.element_size() == 1 else mask != 0).contiguous().view(torch.uint8)
    if out is None:
        labels = torch.empty_like(mask, dtype=torch.int32)
        out = labels, torch.empty_like(labels)
    labels, areas = out
    if mask.numel() == 0:
        return out
    is_root = torch.empty_like(mask)
    n, h, w = mask.shape[:-2].numel(), *mask.shape[-2:]
    blocks = triton.cdiv(h, 2) * triton.cdiv(w, 2)

    block, warps = params.blocks, params.block_warps
    tiles = triton.cdiv(blocks, block)
    start_kernel[(n * tiles,)](mask, labels, areas, h, w, tiles, BLOCK=block, num_warps=warps)
    block, warps = params.join_blocks, params.join_warps
    tiles = triton.cdiv(blocks, block)
    join_kernel[(n * tiles,)](labels, h, w, tiles, BLOCK=block, num_warps=warps)

    block, warps = params.pixels, params.pixel_warps
    tiles = triton.cdiv(h * w, block)
    settle_kernel[(n * tiles,)](labels, areas, is_root, h, w, tiles, BLOCK=block, num_warps=warps)
    rank = is_root.view(n, h * w).cumsum(1, dtype=torch.int32)
    paint_kernel[(n * tiles,)](rank, labels, areas, h, w, tiles, BLOCK=block, num_warps=warps)
    return out


def variants(capability: int) -> list[Variant]:
    """Return every kernel as it is launched on GPUs of `capability`."""
    params = Launch()
    pixels = (params.pixels, params.pixel_warps)
    found = []
    for kernel, pointers, (block, warps) in (
        (
            start_kernel,
            {"p_mask": "*u8", "p_parent": "*i32", "p_area": "*i32"},
            (params.blocks, params.block_warps),
        ),
        (join_kernel, {"p_parent": "*i32"}, (params.join_blocks, params.join_warps)),
        (settle_kernel, {"p_parent": "*i32", "p_area": "*i32", "p_is_root": "*u8"}, pixels),
        (paint_kernel, dict.fromkeys(("p_rank", "p_labels", "p_areas"), "*i32"), pixels),
    ):
        found.append(
            Variant(
                op="connected_components",
                kernel=kernel,
                label=f"{kernel.__name__} {block}",
                capability=capability,
                signature=pointers | dict.fromkeys(("H", "W", "n_tiles"), "i32"),
                constants={"BLOCK": block},
                num_warps=warps,
                num_stages=3,
                has_dot=False,
                aligned=(*pointers, "H", "W"),
            )
        )
    return found
