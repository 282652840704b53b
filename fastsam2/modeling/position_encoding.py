"""Position encodings: sine maps, random Fourier features, and axial rotary tables.

All are computed in at least float32, for any dtype of the model: bfloat16 cannot represent the
coordinate 1023.5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastsam2.modeling.cached_tensor import CachedTensor

__all__ = [
    "PositionEmbeddingRandom",
    "PositionEmbeddingSine",
    "apply_rope",
    "apply_rotary_enc",
    "axial_rope_table",
    "compute_axial_cis",
    "init_t_xy",
    "reshape_for_broadcast",
]


class PositionEmbeddingSine(nn.Module):
    """Sine and cosine map of a 2-D grid, rows first (arXiv 1706.03762, as DETR uses it)."""

    def __init__(
        self,
        num_pos_feats: int,
        temperature: float = 10000,
        normalize: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if num_pos_feats % 2:
            raise ValueError(f"num_pos_feats must be even, not {num_pos_feats}")
        if scale is not None and not normalize:
            raise ValueError("scale needs normalize=True")
        self.num_pos_feats = num_pos_feats // 2
        self.temperature = temperature
        self.normalize = normalize
        self.scale = 2 * math.pi if scale is None else scale
        self._maps: CachedTensor[Tensor] = CachedTensor()

    def _axis(self, length: int, device: torch.device) -> Tensor:
        """Encode one axis: `[length, num_pos_feats]`, sine and cosine alternating."""
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        if self.normalize:
            position = position / (position[-1] + 1e-6) * self.scale
        channel = torch.arange(self.num_pos_feats, dtype=torch.float32, device=device)
        phase = position[:, None] / self.temperature ** (2 * (channel // 2) / self.num_pos_feats)
        return torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the map `[B, num_pos_feats, H, W]` for features `x` `[B, C, H, W]`, in their
        dtype."""
        batch, _, height, width = x.shape

        def compute() -> Tensor:
            rows = self._axis(height, x.device)[:, None].expand(-1, width, -1)
            columns = self._axis(width, x.device)[None].expand(height, -1, -1)
            place = torch.cat((rows, columns), dim=2).permute(2, 0, 1)
            return place.to(x.dtype).contiguous()

        place = self._maps((height, width, x.device, x.dtype), (), compute)
        return place.expand(batch, -1, -1, -1)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of 2-D coordinates (arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        scale = scale if scale and scale > 0 else 1.0
        self.register_buffer(
            "positional_encoding_gaussian_matrix", scale * torch.randn(2, num_pos_feats)
        )

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """Encode (x, y) in 0..1 `[..., 2]` as `[..., 2 * num_pos_feats]`."""
        matrix = self.positional_encoding_gaussian_matrix
        # Not a matmul: autocast would round it.
        projected = (2 * coords - 1).unsqueeze(-1).mul(matrix.to(coords.dtype)).sum(-2)
        phase = 2 * math.pi * projected
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Encode the pixel centres of a grid (H, W): `[2 * num_pos_feats, H, W]`."""
        height, width = size
        matrix = self.positional_encoding_gaussian_matrix
        dtype = torch.promote_types(matrix.dtype, torch.float32)
        y = (torch.arange(height, device=matrix.device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=dtype) + 0.5) / width
        grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        return self._pe_encoding(grid).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Encode (x, y) `[B, N, 2]` in pixels of an image (H, W) as `[B, N, 2 * num_pos_feats]`."""
        height, width = image_size
        dtype = torch.promote_types(coords_input.dtype, torch.float32)
        x, y = coords_input.to(dtype).unbind(-1)
        return self._pe_encoding(torch.stack([x / width, y / height], dim=-1))


def axial_rope_table(
    dim: int, width: int, height: int, theta: float = 10000.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2-D rotary embedding (arXiv 2403.13298).

    The first half of the channel pairs is rotated by x, the second by y.

    Returns:
        Two tables, float32 `[H * W, dim / 2]`.
    """
    frequency = theta ** -(torch.arange(0, dim, 4, device=device).float() / dim)
    index = torch.arange(width * height, device=device)
    x, y = (index % width).float(), (index // width).float()
    angle = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], dim=1)
    return angle.cos(), angle.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (2i, 2i + 1) of `x` `[..., L, D]` by tables `[L', D / 2]`.

    L is a multiple of L'; the tables repeat, once for each grid of tokens.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    grids = x.unflatten(-2, (-1, len(cos))).unflatten(-1, (-1, 2)).to(dtype)
    even, odd = grids.unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.reshape(x.shape).to(x.dtype)


def init_t_xy(end_x: int, end_y: int) -> tuple[Tensor, Tensor]:
    """Return x and y of the points of a grid, row by row, float32 `[end_x * end_y]` each."""
    index = torch.arange(end_x * end_y)
    return (index % end_x).float(), (index // end_x).float()


def compute_axial_cis(dim: int, end_x: int, end_y: int, theta: float = 10000.0) -> Tensor:
    """Return the tables of `axial_rope_table` as complex numbers, `[end_x * end_y, dim / 2]`."""
    return torch.complex(*axial_rope_table(dim, end_x, end_y, theta))


def reshape_for_broadcast(freqs_cis: Tensor, x: Tensor) -> Tensor:
    """Reshape a table `[L, D]` to `[1, ..., L, D]`, with as many dimensions as `x`."""
    if freqs_cis.shape != x.shape[-2:]:
        raise ValueError(f"a table {tuple(freqs_cis.shape)} does not fit {tuple(x.shape)}")
    return freqs_cis.view(*[1] * (x.ndim - 2), *freqs_cis.shape)


def apply_rotary_enc(
    xq: Tensor, xk: Tensor, freqs_cis: Tensor, repeat_freqs_k: bool = False
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys `[..., L, D]` by complex tables `[L, D / 2]`.

    Args:
        repeat_freqs_k: the number of keys is a multiple of L.
    """
    if xk.shape[-2] not in (0, len(freqs_cis)) and not repeat_freqs_k:
        raise ValueError(f"{xk.shape[-2]} keys for {len(freqs_cis)} positions")
    cos, sin = freqs_cis.real, freqs_cis.imag
    return apply_rope(xq, cos, sin), apply_rope(xk, cos, sin) if xk.shape[-2] else xk
