"""Memory attention for inference: folded weights, all objects of a frame in one batch.

The first layer's self-attention and its cross-attention queries depend on the frame alone, and are
computed once for all objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.engine.block_tables import BlockTables
from fastsam2.engine.fused.cpu_tiling import by_rows, in_pieces, objects_in_cache
from fastsam2.engine.fused.folding import FoldedLayer, fold_memory_attention
from fastsam2.engine.memory_pool import Pages
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2_kernels.memory_attention import PagedMemory, memory_attention
from fastsam2_kernels.memory_keys import memory_keys
from fastsam2_kernels.rope_attention import rope_attention

__all__ = ["FusedMemoryAttention"]

#: Maximum size of the keys of all layers, in bytes; larger ones are made one layer at a time.
_KEYS_BYTES = 1 << 30


class FusedMemoryAttention:
    """Memory attention of N objects to paged memory: a pure function of tensors.

    Args:
        model: the model whose weights it uses.
        layers: its layers, folded.
    """

    def __init__(self, model: SAM2Base, layers: list[FoldedLayer]) -> None:
        self.model = model
        self.layers = layers
        self.k_weight = torch.stack([layer.k_weight for layer in layers])
        self.k_bias = torch.stack([layer.k_bias for layer in layers])
        self.pos_at_input = model.memory_attention.pos_enc_at_input
        self.norm = model.memory_attention.norm
        self.tpos = model.maskmem_tpos_enc.flatten(1)
        self.impl = model.impl

    @classmethod
    def of(cls, model: SAM2Base) -> FusedMemoryAttention | None:
        """Fold the weights of `model`; None if its configuration excludes that."""
        layers = fold_memory_attention(model.memory_attention)
        return None if layers is None else cls(model, layers)

    def rope(self, pix_feat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rotary tables for features `[1, C, H, W]`."""
        attention = self.layers[0].layer.cross_attn_image
        return attention.rope_table(pix_feat.shape[-2:].numel(), pix_feat.device)

    def __call__(
        self,
        pix_feat: Tensor,
        pix_pos: Tensor,
        rope: tuple[Tensor, Tensor],
        pages: Pages,
        tables: BlockTables,
    ) -> Tensor:
        """Condition a frame's features on the memory of each object.

        Args:
            pix_feat: image features `[1, C, H, W]`.
            pix_pos: their positions.
            rope: rotary tables of the grid.
            pages: the paged memory.
            tables: the slots that N objects read.

        Returns:
            `[N, C, H, W]`.
        """
        dtype = self.k_weight.dtype
        x = pix_feat.to(dtype).flatten(2).transpose(1, 2)
        if self.pos_at_input:
            x = x.add(pix_pos.to(dtype).flatten(2).transpose(1, 2), alpha=0.1)
        x, q = self._queries(self.layers[0], x, rope)
        objects = tables.reads.shape[0]
        batch = objects_in_cache(pix_feat, objects)
        parts = []
        for part in [tables] if batch >= objects else _split(tables, batch):
            parts.append(self._attend(x, q, rope, pages, part))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.transpose(1, 2).unflatten(2, pix_feat.shape[-2:])

    def _attend(
        self,
        x: Tensor,
        q: Tensor,
        rope: tuple[Tensor, Tensor],
        pages: Pages,
        tables: BlockTables,
    ) -> Tensor:
        """Run all layers from the first one's queries on; returns `[N, L, C]`."""
        objects, scale = tables.reads.shape[0], x.shape[-1] ** -0.5
        at_once = self._layers_at_once(x, tables.slots.shape[0])
        pointers, positions = self.model.pointer_tokens(
            pages.pointers[tables.pointer_slots.long()], tables.distances
        )
        pointer_inputs = (pointers + positions).flatten(0, 1).expand(len(self.layers), -1, -1)
        pointer_keys = torch.baddbmm(
            self.k_bias[:, None], pointer_inputs, self.k_weight.transpose(1, 2)
        ).unflatten(1, pointers.shape[:2])
        q = q.expand(objects, -1, -1)
        for i, folded in enumerate(self.layers):
            if i > 0:
                x, q = self._queries(folded, x, rope)
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
                tables.object_slots,
                tables.reads,
                tables.num_reads,
                pointer_keys[i],
                pointers,
                tables.num_pointer_tokens,
            )
            y = memory_attention(q, memory, *rope, scale, impl=self.impl)
            x = x + F.linear(y, folded.out_weight, folded.out_bias)
            x = by_rows(folded.feed, x)
        return self.norm(x)

    def _layers_at_once(self, x: Tensor, reads: int) -> int:
        """Return the number of layers whose keys are made together; keys are by far the largest
        tensors, and on a CPU they should fit its cache."""
        size = len(self.layers) * reads * x.shape[1:].numel() * x.element_size()
        return 1 if in_pieces(x) or size > _KEYS_BYTES else len(self.layers)

    def _queries(
        self, folded: FoldedLayer, x: Tensor, rope: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run a layer's self-attention; returns its output and the cross-attention's queries."""
        layer, scale = folded.layer, x.shape[-1] ** -0.5
        q, k, v = F.linear(layer.norm1(x), folded.qkv_weight, folded.qkv_bias).chunk(3, dim=-1)
        x = x + rope_attention(q, k, v, *rope, scale, impl=self.impl)
        return x, F.linear(layer.norm2(x), folded.q_weight, folded.q_bias)


def _split(tables: BlockTables, batch: int) -> Iterator[BlockTables]:
    """Yield tables of `batch` objects at a time."""
    for begin in range(0, tables.reads.shape[0], batch):
        of_objects = {
            name: getattr(tables, name)[begin : begin + batch]
            for name in (
                "reads",
                "num_reads",
                "object_slots",
                "pointer_slots",
                "distances",
                "num_pointer_tokens",
            )
        }
        reads = of_objects["reads"]
        valid = torch.arange(reads.shape[1], device=reads.device) < of_objects["num_reads"][:, None]
        rows = reads[valid].long()
        of_objects["reads"] = torch.zeros_like(reads)
        of_objects["reads"][valid] = torch.arange(len(rows), dtype=reads.dtype)
        slots, times = tables.slots[rows], tables.times[rows]
        yield replace(tables, slots=slots, times=times, **of_objects)
