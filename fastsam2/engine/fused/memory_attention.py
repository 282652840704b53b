"""Memory attention as it runs in inference: folded weights, all objects of a frame at once.

What is done once a frame instead of once an object: the first layer's self-attention and its
cross-attention queries, which depend on the frame alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.engine.block_tables import BlockTables, pointer_tokens
from fastsam2.engine.fused.cpu_tiling import by_rows, in_pieces, objects_in_cache
from fastsam2.engine.fused.fast_path import FastPath
from fastsam2.engine.fused.folding import FoldedLayer, fold_memory_attention
from fastsam2.engine.memory_pool import Pages
from fastsam2.engine.runtime.precision import without_autocast
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2_kernels.memory_attention import PagedMemory, memory_attention
from fastsam2_kernels.memory_keys import memory_keys
from fastsam2_kernels.rope_attention import rope_attention

__all__ = ["FusedMemoryAttention", "memory_reader"]


class FusedMemoryAttention:
    """Reads memory for a frame; made of the weights of a model.

    Calling it is a pure function of tensors.
    """

    def __init__(self, model: SAM2Base, layers: list[FoldedLayer]) -> None:
        self.layers = layers
        self.k_weight = torch.stack([layer.k_weight for layer in layers])
        self.k_bias = torch.stack([layer.k_bias for layer in layers])
        self.pos_at_input = model.memory_attention.pos_enc_at_input
        self.norm = model.memory_attention.norm
        self.tpos = model.maskmem_tpos_enc.flatten(1)
        self.impl = model.impl

    def rope(self, pix_feat: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables for a frame's features `[1, C, H, W]`."""
        attention = self.layers[0].layer.cross_attn_image
        return attention.rope_table(pix_feat.shape[-2:].numel(), pix_feat.device)

    def __call__(
        self,
        model: SAM2Base,
        pix_feat: Tensor,
        pix_pos: Tensor,
        rope: tuple[Tensor, Tensor],
        pages: Pages,
        tables: BlockTables,
    ) -> Tensor:
        """The frame's features conditioned on the memory of each object.

        Args:
            model: whose memory attention it is.
            pix_feat: image features `[1, C, H, W]`.
            pix_pos: their positions.
            rope: rotary tables of the grid.
            pages: all that can be read.
            tables: what N objects read of it.

        Returns:
            `[N, C, H, W]`.
        """
        with without_autocast(pix_feat.device):
            return self._read(model, pix_feat, pix_pos, rope, pages, tables)

    def _read(
        self,
        model: SAM2Base,
        pix_feat: Tensor,
        pix_pos: Tensor,
        rope: tuple[Tensor, Tensor],
        pages: Pages,
        tables: BlockTables,
    ) -> Tensor:
        dtype = self.k_weight.dtype
        x = pix_feat.to(dtype).flatten(2).transpose(1, 2)
        if self.pos_at_input:
            x = x + 0.1 * pix_pos.to(dtype).flatten(2).transpose(1, 2)
        # The same for all objects.
        x, q = self._ask(self.layers[0], x, rope)
        objects = tables.reads.shape[0]
        batch = objects_in_cache(pix_feat, objects)
        parts = [tables] if batch >= objects else _split(tables, batch)
        seen = torch.cat([self._attend(model, x, q, rope, pages, part) for part in parts])
        return seen.transpose(1, 2).unflatten(2, pix_feat.shape[-2:])

    def _attend(
        self,
        model: SAM2Base,
        x: Tensor,
        q: Tensor,
        rope: tuple[Tensor, Tensor],
        pages: Pages,
        tables: BlockTables,
    ) -> Tensor:
        """From the first layer's queries on, `[N, L, C]`."""
        objects, scale = tables.reads.shape[0], x.shape[-1] ** -0.5
        # Keys of all layers at once, or those of one: they are the largest tensors by far.
        at_once = 1 if in_pieces(x) else len(self.layers)
        object_slots = tables.slots[tables.reads.long()]
        pointers, places = pointer_tokens(model, pages, tables)
        pointer_inputs = pointers + places
        q = q.expand(objects, -1, -1)
        for i, folded in enumerate(self.layers):
            if i > 0:
                x, q = self._ask(folded, x, rope)
            if i % at_once == 0:
                keys = memory_keys(
                    pages.latents,
                    pages.pos,
                    self.tpos,
                    self.k_weight[i : i + at_once],
                    self.k_bias[i : i + at_once],
                    *rope,
                    tables.slots,
                    tables.times,
                    impl=self.impl,
                )
            memory = PagedMemory(
                keys[i % at_once],
                pages.latents,
                object_slots,
                tables.reads,
                tables.num_reads,
                F.linear(pointer_inputs, folded.k_weight, folded.k_bias),
                pointers,
                tables.num_pointer_tokens,
            )
            y = memory_attention(q, memory, *rope, scale, impl=self.impl)
            x = x + F.linear(y, folded.out_weight, folded.out_bias)
            x = by_rows(folded.feed, x)
        return self.norm(x)

    def _ask(
        self, folded: FoldedLayer, x: Tensor, rope: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Self-attention, and the queries of the cross-attention."""
        layer, scale = folded.layer, x.shape[-1] ** -0.5
        q, k, v = F.linear(layer.norm1(x), folded.qkv_weight, folded.qkv_bias).chunk(3, dim=-1)
        x = x + rope_attention(q, k, v, *rope, scale, impl=self.impl)
        return x, F.linear(layer.norm2(x), folded.q_weight, folded.q_bias)


def _split(tables: BlockTables, batch: int) -> Iterator[BlockTables]:
    """What so many objects after another read."""
    for begin in range(0, tables.reads.shape[0], batch):
        of_objects = {
            name: getattr(tables, name)[begin : begin + batch]
            for name in ("reads", "num_reads", "pointer_slots", "distances", "num_pointer_tokens")
        }
        reads = of_objects["reads"]
        valid = torch.arange(reads.shape[1], device=reads.device) < of_objects["num_reads"][:, None]
        rows = reads[valid].long()
        of_objects["reads"] = torch.zeros_like(reads)
        of_objects["reads"][valid] = torch.arange(len(rows), dtype=reads.dtype)
        slots, times = tables.slots[rows], tables.times[rows]
        yield replace(tables, slots=slots, times=times, **of_objects)


def _build(model: SAM2Base) -> FusedMemoryAttention | None:
    layers = fold_memory_attention(model.memory_attention)
    return None if layers is None else FusedMemoryAttention(model, layers)


#: The reader of a model; None where its own module must run.
memory_reader = FastPath(
    ["memory_attention", "obj_ptr_tpos_proj"], _build, lambda model: [model.maskmem_tpos_enc]
)
