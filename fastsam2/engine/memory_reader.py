"""Memory attention as it runs in inference: folded weights, all objects of a frame at once.

What is done once a frame instead of once an object: the first layer's self-attention and its
cross-attention queries, which depend on the frame alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsam2.engine.features import FrameFeatures
from fastsam2.engine.folding import FoldedLayer, fold_memory_attention
from fastsam2.engine.memory_bank import MemorySelection
from fastsam2.engine.plain import fingerprint, is_plain
from fastsam2.engine.pointers import pointer_tokens
from fastsam2.modeling.sam2_base import SAM2Base
from fastsam2_kernels.memory_attention import memory_attention
from fastsam2_kernels.memory_keys import memory_keys
from fastsam2_kernels.rope_attention import rope_attention

__all__ = ["MemoryReader", "memory_reader"]

_READERS: weakref.WeakKeyDictionary[SAM2Base, MemoryReader | None] = weakref.WeakKeyDictionary()


def memory_reader(model: SAM2Base) -> MemoryReader | None:
    """The reader of this model; None where its own module must run (see `is_plain`)."""
    if not is_plain(model.memory_attention):
        return None
    print_now = fingerprint(model.memory_attention)
    reader = _READERS.get(model)
    if reader is None or reader.weights != print_now:
        layers = fold_memory_attention(model.memory_attention)
        if layers is None:
            return None
        reader = MemoryReader(model, layers, print_now)
        _READERS[model] = reader
    return reader


@dataclass(frozen=True)
class _Tables:
    """Which memory each of N objects reads; R reads in all."""

    latents: Tensor  #: `[S, HW, M]`
    pos: Tensor  #: `[HW, M]`
    slots: Tensor  #: slot of each read, int32 `[R]`
    times: Tensor  #: temporal position of each read, int32 `[R]`
    reads: Tensor  #: rows of the keys that each object reads, int32 `[N, K]`
    num_reads: Tensor  #: int32 `[N]`


class MemoryReader:
    """Reads memory for a frame; made of the weights of a model, which it does not hold."""

    def __init__(
        self, model: SAM2Base, layers: list[FoldedLayer], weights: tuple[tuple[int, int], ...]
    ) -> None:
        self.weights = weights
        self.layers = layers
        self.k_weight = torch.stack([layer.k_weight for layer in layers])
        self.k_bias = torch.stack([layer.k_bias for layer in layers])
        self.pos_at_input = model.memory_attention.pos_enc_at_input
        self.norm = model.memory_attention.norm
        self.rope = layers[0].layer.cross_attn_image.rope_table

    def read(
        self, model: SAM2Base, features: FrameFeatures, selections: Sequence[MemorySelection]
    ) -> Tensor:
        """The frame's features conditioned on the memory of each of N objects, `[N, C, H, W]`."""
        # The kernels take one dtype: a caller's autocast would mix two.
        with torch.autocast(model.device.type, enabled=False):
            return self._read(model, features, selections)

    def _read(
        self, model: SAM2Base, features: FrameFeatures, selections: Sequence[MemorySelection]
    ) -> Tensor:
        dtype = model.dtype
        x = features.pix_feat.to(dtype).flatten(2).transpose(1, 2)
        if self.pos_at_input:
            x = x + 0.1 * features.pix_pos.to(dtype).flatten(2).transpose(1, 2)
        cos, sin = self.rope(x.shape[1], x.device)
        tables = _tables(model, selections)
        keys = memory_keys(
            tables.latents,
            tables.pos,
            model.maskmem_tpos_enc.flatten(1),
            self.k_weight,
            self.k_bias,
            cos,
            sin,
            tables.slots,
            tables.times,
        )
        pointers, places, num_pointers = _pointers(model, selections)
        scale = x.shape[-1] ** -0.5
        for i, folded in enumerate(self.layers):
            layer = folded.layer
            q, k, v = F.linear(layer.norm1(x), folded.qkv_weight, folded.qkv_bias).chunk(3, dim=-1)
            y = rope_attention(q, k, v, cos, sin, scale)
            x = x + layer.self_attn.out_proj(y)
            q = F.linear(layer.norm2(x), folded.q_weight, folded.q_bias)
            if i == 0:
                q = q.expand(len(selections), -1, -1)
            y = memory_attention(
                q,
                keys[i],
                tables.latents,
                tables.slots[tables.reads.long()],
                tables.reads,
                tables.num_reads,
                F.linear(pointers + places, folded.k_weight, folded.k_bias),
                pointers,
                num_pointers,
                cos,
                sin,
                scale,
            )
            x = x + F.linear(y, folded.out_weight, folded.out_bias)
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        x = self.norm(x).transpose(1, 2)
        return x.reshape(len(selections), -1, *features.pix_feat.shape[-2:])


def _tables(model: SAM2Base, selections: Sequence[MemorySelection]) -> _Tables:
    """Stack what is read into one pool, a slot a read."""
    device, dtype = model.device, model.dtype
    read = [pair for selection in selections for pair in selection.frames]
    counts = [len(selection.frames) for selection in selections]
    latents, times, pos = [], [], None
    for t_pos, output in read:
        assert output.maskmem_features is not None
        assert output.maskmem_pos_enc is not None
        latents.append(output.maskmem_features.to(device, dtype, non_blocking=True))
        times.append(model.num_maskmem - t_pos - 1)
        pos = output.maskmem_pos_enc[-1]
    assert pos is not None
    rows = torch.zeros(len(counts), max(counts), dtype=torch.int32)
    begin = 0
    for n, count in enumerate(counts):
        rows[n, :count] = torch.arange(begin, begin + count)
        begin += count
    return _Tables(
        latents=torch.cat(latents).flatten(2).transpose(1, 2).contiguous(),
        pos=pos[0].to(device, dtype).flatten(1).T.contiguous(),
        slots=torch.arange(len(read), dtype=torch.int32, device=device),
        times=torch.tensor(times, dtype=torch.int32, device=device),
        reads=rows.to(device),
        num_reads=torch.tensor(counts, dtype=torch.int32, device=device),
    )


def _pointers(
    model: SAM2Base, selections: Sequence[MemorySelection]
) -> tuple[Tensor, Tensor, Tensor]:
    """Pointer tokens and positions `[N, P, M]`, padded, and their numbers, int32 `[N]`."""
    found = [pointer_tokens(model, selection) for selection in selections]
    counts = [len(tokens) for tokens, _ in found]
    size = (len(found), max(counts), model.mem_dim)
    tokens = torch.zeros(size, device=model.device, dtype=model.dtype)
    places = torch.zeros_like(tokens)
    for n, (token, place) in enumerate(found):
        tokens[n, : counts[n]] = token[:, 0]
        places[n, : counts[n]] = place[:, 0]
    return tokens, places, torch.tensor(counts, dtype=torch.int32, device=model.device)
