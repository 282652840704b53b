"""Memory attention: the current frame reads the memory bank (SAM 2, arXiv 2408.00714, sec. 4)."""

from __future__ import annotations

from torch import Tensor, nn

from fastsam2.modeling.sam.transformer import RoPEAttention
from fastsam2.modeling.sam2_utils import get_activation_fn, get_clones

__all__ = ["MemoryAttention", "MemoryAttentionLayer"]


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to memory and MLP, each pre-norm with a residual.

    Args:
        activation: of the MLP, `"relu"`, `"gelu"` or `"glu"`.
        d_model: channels of the frame.
        pos_enc_at_attn, pos_enc_at_cross_attn_keys, pos_enc_at_cross_attn_queries: inputs to which
            positions are added.
    """

    def __init__(
        self,
        activation: str,
        cross_attention: RoPEAttention,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        pos_enc_at_attn: bool,
        pos_enc_at_cross_attn_keys: bool,
        pos_enc_at_cross_attn_queries: bool,
        self_attention: RoPEAttention,
    ) -> None:
        super().__init__()
        self.self_attn = self_attention
        self.cross_attn_image = cross_attention
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)
        self.activation = get_activation_fn(activation)
        self.pos_enc_at_attn = pos_enc_at_attn
        self.pos_enc_at_cross_attn_queries = pos_enc_at_cross_attn_queries
        self.pos_enc_at_cross_attn_keys = pos_enc_at_cross_attn_keys

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
        num_k_exclude_rope: int = 0,
    ) -> Tensor:
        """Run the layer.

        Args:
            tgt: current frame `[B, L, C]`.
            memory: memory tokens `[B, M, C_mem]`; the last `num_k_exclude_rope` are pointers.
            pos: positions of the memory, like `memory`.
            query_pos: positions of the current frame, like `tgt`.

        Returns:
            `[B, L, C]`.
        """

        def placed(x: Tensor, position: Tensor | None, wanted: bool) -> Tensor:
            return x + position if wanted and position is not None else x

        x = self.norm1(tgt)
        q = placed(x, query_pos, self.pos_enc_at_attn)
        tgt = tgt + self.dropout1(self.self_attn(q, q, x))
        q = placed(self.norm2(tgt), query_pos, self.pos_enc_at_cross_attn_queries)
        k = placed(memory, pos, self.pos_enc_at_cross_attn_keys)
        tgt = tgt + self.dropout2(self.cross_attn_image(q, k, memory, num_k_exclude_rope))
        x = self.linear2(self.dropout(self.activation(self.linear1(self.norm3(tgt)))))
        return tgt + self.dropout3(x)


class MemoryAttention(nn.Module):
    """A stack of memory attention layers and a final norm.

    Args:
        layer: a layer, which is copied.
        batch_first: must be True: layers take `[B, L, C]`.
    """

    def __init__(
        self,
        d_model: int,
        pos_enc_at_input: bool,
        layer: nn.Module,
        num_layers: int,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        if not batch_first:
            raise ValueError("batch_first=False is not supported")
        self.d_model = d_model
        self.num_layers = num_layers
        self.pos_enc_at_input = pos_enc_at_input
        self.batch_first = batch_first
        self.layers = get_clones(layer, num_layers)
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self,
        curr: Tensor | list[Tensor],
        memory: Tensor,
        curr_pos: Tensor | list[Tensor] | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """Condition the current frame on memory.

        Args:
            curr: features of the frame `[L, B, C]`, or a list with this one tensor.
            memory: memory tokens `[M, B, C_mem]`, object pointers last.
            curr_pos: positions like `curr`.
            memory_pos: positions like `memory`.
            num_obj_ptr_tokens: number of memory tokens that are pointers; RoPE skips them.

        Returns:
            `[L, B, C]`.
        """
        if isinstance(curr, (list, tuple)):
            (curr,) = curr
        if isinstance(curr_pos, (list, tuple)):
            (curr_pos,) = curr_pos
        if curr.shape[1] != memory.shape[1]:
            raise ValueError(f"batch sizes differ: curr {curr.shape[1]}, memory {memory.shape[1]}")
        x = curr.transpose(0, 1)
        query_pos = None if curr_pos is None else curr_pos.transpose(0, 1)
        if self.pos_enc_at_input and query_pos is not None:
            x = x + 0.1 * query_pos
        memory = memory.transpose(0, 1)
        pos = None if memory_pos is None else memory_pos.transpose(0, 1)
        for layer in self.layers:
            x = layer(x, memory, pos, query_pos, num_obj_ptr_tokens)
        return self.norm(x).transpose(0, 1)
